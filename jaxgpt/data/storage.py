"""Files on this machine and in a bucket. The only module that knows how a bucket is spoken to.

`gs://BUCKET/NAME` goes through gcsfs. With STORAGE_EMULATOR_HOST set it talks to that server, without logging in.
Source of the fields: Cloud Storage's JSON API, resources Objects and Buckets.
"""

import base64
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from jaxgpt.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

PROBE = ".doctor-"  # begins the names of what `jaxgpt doctor` writes to see whether it may
_SCHEME = "gs://"
_READ_AHEAD = 4 << 20  # bytes of one request, where the reader asks for less
_CHUNK = 16 << 20  # bytes of one request of a large upload; a multiple of 256 KiB, as Cloud Storage wants


@dataclass(frozen=True)
class Remote:
    """An object in a bucket. url: with its scheme; bytes: its size; crc32c: of its content, hex."""

    url: str
    bytes: int
    crc32c: str


class UnreachableError(UserError):
    """The network or the service failed, after gcsfs's own retries: the same may work later."""


def is_remote(path: str) -> bool:
    return path.startswith(_SCHEME)


def find(pattern: str) -> list[Remote]:
    """Objects that a URL or glob names, in sorted order; `**` also goes through folders."""
    with explained(pattern):
        found = _file_system().glob(pattern, detail=True)
    return [_remote(found[name]) for name in sorted(found) if found[name]["type"] == "file"]


def remove(url: str) -> None:
    with explained(url):
        _file_system().rm_file(url)


def find_below(url: str) -> dict[str, Remote]:
    """All objects of a folder, by their names within it; UserError where the bucket is missing or forbidden."""
    url = url.rstrip("/")
    with explained(_bucket(url)):  # a folder without objects is no error, so the error is the bucket's
        found = _file_system().find(url, detail=True)
    objects = [_remote(entry) for entry in found.values()]
    start = len(url) + 1
    # A name that ends in a slash is how consoles show an empty folder.
    return {object.url[start:]: object for object in objects if object.url[start:] and not object.url.endswith("/")}


def open_binary(path: str) -> IO[bytes]:
    """A local file or an object, for reading from any place.

    An object is read as it was when it was opened; UserError where it can't be read.
    """
    if not is_remote(path):
        return open(path, "rb")
    with explained(path):
        fs = _file_system()
        bucket, _, name = path.removeprefix(_SCHEME).partition("/")
        entry = fs.call("GET", "b/{}/o/{}", bucket, name, json_out=True)
    return io.BufferedReader(_Object(fs, path, int(entry["size"]), entry["generation"]), _READ_AHEAD)


def send(path: Path, url: str, on_progress: Callable[[int], None]) -> None:
    """Writes a local file as an object, large ones in chunks; `on_progress` is told the bytes of the file so far."""
    with explained(url):
        _file_system().put_file(str(path), url, chunksize=_CHUNK, callback=_Callback(on_progress))


def locations(url: str) -> tuple[str, ...]:
    """Where the URL's bucket is, in lower case: its location, and the regions that a dual-region is made of."""
    with explained(_bucket(url)):
        entry = _file_system().call("GET", "b/{}", _bucket(url).removeprefix(_SCHEME), json_out=True)
    regions = entry.get("customPlacementConfig", {}).get("dataLocations", [])
    return tuple(name.lower() for name in (entry["location"], *regions))


def in_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results in the order in which they are done; an error ends what has not begun and is raised."""
    pool = ThreadPoolExecutor(threads)
    try:
        for done in as_completed([pool.submit(function, item) for item in items]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What gcsfs raises, as a UserError in one sentence; `UnreachableError` where trying again may help."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        explanation = _explanation(url, error)
        if explanation is None:
            raise
        raise explanation from error


def _explanation(url: str, error: Exception) -> UserError | None:
    """None for an error that does not come from the bucket, a full disk say."""
    import aiohttp
    import google.auth.exceptions
    import requests
    from gcsfs.retry import ChecksumError, HttpError

    said = " ".join(str(error).split())[:300] or type(error).__name__
    again = "check the network and run the same command again"
    if isinstance(error, google.auth.exceptions.RefreshError) or getattr(error, "code", None) == 401:
        return _forbidden(url, said)
    if isinstance(error, HttpError):
        return UnreachableError(f"{url}: the service answered {said!r}; {again}")
    network = (aiohttp.ClientError, requests.RequestException, google.auth.exceptions.GoogleAuthError, ChecksumError)
    if isinstance(error, (*network, ConnectionError, TimeoutError)):
        return UnreachableError(f"{url} could not be reached ({said}); {again}")
    if isinstance(error, OSError) and error.errno is None:  # an error of this machine's files has a number
        if isinstance(error, FileNotFoundError):
            return UserError(f"{url} does not exist; check the name")
        return _forbidden(url, said)
    if isinstance(error, ValueError):  # how gcsfs reports that the service finds a request invalid
        return UserError(f"{url} was refused ({said}); check the name")
    return None


def _forbidden(url: str, said: str) -> UserError:
    return UserError(
        f"{url}: access is denied ({said}); log in with `gcloud auth application-default login`, or let the bucket's "
        "owner give this account the role Storage Object Admin (to read: Storage Object Viewer)"
    )


def _file_system() -> Any:
    """gcsfs's file system; it keeps one per process and makes a new one after a fork."""
    try:
        import aiohttp
        from gcsfs.core import GCSFileSystem  # not the newer class, which first asks about the bucket through gRPC
    except ImportError:
        raise UserError("gs:// needs the package gcsfs; pip install gcsfs, or copy the files to this machine") from None
    # It would print the traceback of what `explained` says in one sentence.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return GCSFileSystem(
        token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None,
        use_listings_cache=False,
        # aiohttp's default ends every transfer after five minutes, however well it goes.
        requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60),
    )


def _bucket(url: str) -> str:
    return _SCHEME + url.removeprefix(_SCHEME).partition("/")[0]


def _remote(entry: dict[str, Any]) -> Remote:
    """The service gives the checksum as base64 of four big-endian bytes."""
    return Remote(_SCHEME + entry["name"], int(entry["size"]), base64.b64decode(entry["crc32c"]).hex())


class _Object(io.RawIOBase):
    """One generation of an object as an unbuffered file."""

    def __init__(self, fs: Any, url: str, size: int, generation: str):
        self._fs, self._url, self._size, self._generation = fs, url, size, generation
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"position {at} lies before the beginning of {self._url}")
        self._at = at
        return at

    def readall(self) -> bytes:
        return self._read(self._size)  # Python's own would ask for 8 KiB at a time

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._at + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, stop: int) -> bytes:
        """The bytes from here to `stop`, or to the end."""
        start, stop = self._at, min(stop, self._size)
        if start >= stop:
            return b""
        with explained(self._url):
            data: bytes = self._fs.cat_file(self._url, start=start, end=stop, generation=self._generation)
        if len(data) != stop - start:
            raise UserError(
                f"{self._url}: asked for {stop - start} bytes at {start}, got {len(data)}; if it is stored with "
                "Content-Encoding gzip, store it again without"
            )
        self._at = stop
        return data


class _Callback:
    """What gcsfs tells about a transfer."""

    def __init__(self, on_progress: Callable[[int], None]):
        self.absolute_update = on_progress

    def set_size(self, size: int) -> None:
        """The caller knows it."""
