"""Can a bucket, or a folder, be used as training uses it: list, write, read, delete? Is it where this machine is?"""

import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from jaxgpt.data import storage
from jaxgpt.data.upload import check_bucket
from jaxgpt.doctor.check import Line, in_one_line
from jaxgpt.doctor.metadata_server import region
from jaxgpt.errors import UserError

T = TypeVar("T")

_CONTENT = b"written by jaxgpt doctor, and to be deleted"
_SERVICE = "https://storage.googleapis.com"
_REACH_SECONDS = 5.0
_SLOW_SECONDS = 2.0  # for one small request


def check_place(url: str, writes: bool) -> Iterator[Line]:
    """url: of a folder in a bucket, or a local one; writes: whether more is done there than reading."""
    if not storage.is_remote(url):
        yield _local(Path(url), writes)
        return
    if not urlsplit(url).netloc:
        raise UserError(f"{url} names no bucket; give gs://BUCKET/FOLDER")
    check_reach()
    url = url.rstrip("/")
    timer = _Timer()
    # In the folder and not beside it: the right to write may begin there.
    own = f"{url}/{storage.PROBE}{uuid.uuid4().hex[:12]}"
    timer.timed("lists", lambda: storage.find_below(own))
    if writes:
        yield from _try_out(own, timer)
    yield _told(url, timer)
    yield _where(url, own)


def check_reach() -> None:
    """UserError where the service does not answer; gcsfs would try again for most of a minute, and log in first."""
    service = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST") or _SERVICE)
    if service.hostname is None:
        return
    port = service.port or (443 if service.scheme == "https" else 80)
    try:
        socket.create_connection((service.hostname, port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"{service.hostname} can't be reached at port {port} ({error}); check the network and its firewall"
        ) from error


class _Timer:
    """seconds: that each step took, by what the bucket did in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, step: str, action: Callable[[], T]) -> T:
        began = time.monotonic()
        result = action()
        self.seconds[step] = time.monotonic() - began
        return result


def _try_out(own: str, timer: _Timer) -> Iterator[Line]:
    """Writes an object, reads it and deletes it. UserError where one of these fails; a line where it stays there."""
    url = f"{own}/object"
    problem: Exception | None = None
    is_sent = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "object").write_bytes(_CONTENT)
            timer.timed("writes", lambda: storage.send(Path(folder) / "object", url, lambda sent: None))
        is_sent = True
        read = timer.timed("reads", lambda: _content(url))
        if read != _CONTENT:
            problem = UserError(
                f"{url}: read other {len(read)} bytes than were written; see what lies between here and there"
            )
    except Exception as error:
        problem = error
    try:  # even one that was not sent: it may have arrived, and the answer been lost
        timer.timed("deletes", lambda: storage.remove(url))
    except UserError as error:
        if is_sent:
            yield Line("fail", "bucket", f"{in_one_line(error)}; {url} stays there: delete it by hand")
    if problem:
        raise problem


def _content(url: str) -> bytes:
    with storage.open_binary(url) as file:
        return file.read()


def _told(url: str, timer: _Timer) -> Line:
    said = f"{url} " + ", ".join(f"{step} in {seconds * 1e3:.0f} ms" for step, seconds in timer.seconds.items())
    if max(timer.seconds.values()) > _SLOW_SECONDS:
        return Line("warn", "bucket", f"{said}, which is slow; see whether it is near, and the network")
    return Line("ok", "bucket", said)


def _where(url: str, own: str) -> Line:
    try:
        there = " / ".join(storage.locations(url))
    except UserError as error:
        said = f"{url} does not say where it is ({in_one_line(error)})"
        return Line("warn", "region", f"{said}; compare it with this machine's region by hand")
    here = region()
    if here is None:
        return Line("ok", "region", f"{url} is in {there}; this machine does not say where it is")
    try:
        check_bucket(own, here)
    except UserError as error:
        return Line("warn", "region", in_one_line(error).replace(own, url))
    return Line("ok", "region", f"{url} is in {there}, this machine in {here}")


def _local(folder: Path, writes: bool) -> Line:
    """UserError where the folder is missing or can't be used."""
    timer = _Timer()
    own = folder / f"{storage.PROBE}{uuid.uuid4().hex[:12]}"
    try:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give gs://BUCKET/FOLDER or a folder that is there")
        timer.timed("lists", lambda: next(folder.iterdir(), None))
        if writes:
            try:
                timer.timed("writes", lambda: own.write_bytes(_CONTENT))
                timer.timed("reads", own.read_bytes)
            finally:  # a full disk may have taken the name and no content
                timer.timed("deletes", lambda: own.unlink(missing_ok=True))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; change its permissions, or give another folder") from error
    return _told(str(folder), timer)
