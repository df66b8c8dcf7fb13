"""A run in a bucket, which looks like its folder: what is there, sending, removing, fetching.

A checkpoint's seal is sent last and removed first, so what has one is whole.
"""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from jaxgpt.data import storage
from jaxgpt.data.atomic import write_text
from jaxgpt.data.cache import fetch
from jaxgpt.data.storage import PROBE, Remote, UnreachableError, find_below, in_threads, open_binary, send
from jaxgpt.errors import UserError
from jaxgpt.train.arrays import short
from jaxgpt.train.retention import FOLDER, LATER_METRICS, WAY_BACK
from jaxgpt.train.seal import SEAL, Content, DamagedError, content_of, parse_seal, sealed_files

IDENTITY = "run_id"  # of a run: a random number, so that no other run's mirror is written to
_THREADS = 8
_BLOCK = 8 << 20  # bytes of one request
Files = dict[str, Remote]  # by their names below the run's URL


def remote_steps(there: Files) -> dict[int, bool]:
    """Steps of which anything is there, and whether all of it is."""
    names = [name.split("/", 2) for name in there if name.startswith(f"{FOLDER}/")]
    found = {int(parts[1]) for parts in names if len(parts) == 3 and parts[1].isdigit()}
    return {step: f"{FOLDER}/{step}/{SEAL}" in there for step in sorted(found)}


def holds_checkpoint(url: str) -> bool:
    return any(remote_steps(find_below(url.rstrip("/"))).values())


def local_steps(run: Path) -> set[int]:
    """Steps of the run's sealed checkpoints."""
    return {int(path.parent.name) for path in (run / FOLDER).glob(f"*/{SEAL}") if path.parent.name.isdigit()}


def look(run: Path, url: str) -> Files:
    """What is below `url`; UserError where that is not a copy of this run. The run gets an identity if it has none."""
    there = {name: remote for name, remote in find_below(url).items() if not name.startswith(PROBE)}
    own = run / IDENTITY
    if there and IDENTITY not in there:
        raise UserError(f"checkpoint.mirror {url} already holds something else ({min(there)}); give a new folder")
    if not there:
        if not own.is_file():
            write_text(own, uuid.uuid4().hex)
        return there
    remote = read_text(url, IDENTITY)
    if not own.is_file() and not has_checkpoints(run):
        write_text(own, remote)
    if not own.is_file() or own.read_text(encoding="utf-8") != remote:
        raise UserError(f"checkpoint.mirror {url} holds another run than {run}; give a new folder")
    return there


def has_checkpoints(run: Path) -> bool:
    return any(path.name.isdigit() for path in (run / FOLDER).glob("*"))


def read_text(url: str, name: str) -> str:
    with open_binary(f"{url}/{name}") as file:
        return file.read().decode()


def send_files(run: Path, url: str, files: dict[str, Content], there: Files) -> None:
    """Sends what is not there yet, and returns when the bucket lists each file with its content.

    UnreachableError where something did not arrive; DamagedError where a file here is not what `files` says.
    """

    def send_one(name: str) -> None:
        if content_of(run / name) != files[name]:
            raise DamagedError(f"{run / name} is not what was written")
        send(run / name, f"{url}/{name}", lambda sent: None)

    missing = [name for name in files if not _is_in(files[name], there.get(name))]
    if not missing:
        return
    list(in_threads(send_one, missing, _THREADS))
    arrived = find_below(url)
    lost = [name for name in missing if not _is_in(files[name], arrived.get(name))]
    if lost:
        raise UnreachableError(f"{url}/{lost[0]}: what arrived was not what was sent; check the network")


def _is_in(content: Content, found: Remote | None) -> bool:
    return found is not None and (found.bytes, found.crc32c) == content


def send_step(run: Path, url: str, step: int, there: Files) -> None:
    below = f"{FOLDER}/{step}"
    files = {f"{below}/{name}": content for name, content in sealed_files(run / below).items()}
    send_files(run, url, files, there)
    send_files(run, url, {f"{below}/{SEAL}": content_of(run / below / SEAL)}, there)


def remove_step(url: str, step: int) -> None:
    url = f"{url}/{FOLDER}/{step}"
    there = find_below(url)
    if SEAL in there:
        storage.remove(there.pop(SEAL).url)
    list(in_threads(storage.remove, [file.url for file in there.values()], _THREADS))


def fetch_if_gone(run: Path, url: str, say: Callable[[str], None]) -> None:
    """The newest whole checkpoint at `url` into a run that has none, and with it all that is not a checkpoint.

    UserError where the bucket can't be asked, so that no second run begins beside the first.
    """
    gone = not has_checkpoints(run)
    try:
        there = look(run, url)
    except UnreachableError as error:
        if gone:
            raise UserError(f"nobody knows whether checkpoint.mirror holds a checkpoint of {run}: {error}") from error
        say(f"checkpoint.mirror can't be reached: {short(error)}; training goes on from {run}, and it is tried again")
        return
    whole = [step for step, is_whole in remote_steps(there).items() if is_whole]
    if not gone or not whole:
        return
    for name, remote in there.items():
        if not name.startswith(f"{FOLDER}/") and not (run / name).exists():
            fetch(remote, run / name)
    for step in reversed(whole):
        try:
            _fetch_step(run, url, step, there)
        except DamagedError as error:
            say(f"{error}; trying the checkpoint before")
            continue
        say(f"{run}: fetched step {step} from {url}")
        return
    raise UserError(
        f"all checkpoints in {url} are damaged; nothing was changed: give a new folder as checkpoint.mirror"
    )


def _fetch_step(run: Path, url: str, step: int, there: Files) -> None:
    below = f"{FOLDER}/{step}"
    files = parse_seal(read_text(url, f"{below}/{SEAL}"), f"{url}/{below}/{SEAL}")
    for name, content in files.items():
        if not _is_in(content, there.get(f"{below}/{name}")):
            raise DamagedError(f"{url}/{below}/{name} is missing or not what was sent")
    needed, free = sum(content.bytes for content in files.values()), shutil.disk_usage(run).free
    if needed > free:
        raise UserError(f"{run} has {free / 1e9:.1f} GB free, {url}/{below} needs {needed / 1e9:.1f} GB; make room")
    partial = run / FOLDER / f".{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    later = [name for name in (LATER_METRICS, WAY_BACK) if f"{below}/{name}" in there]
    list(in_threads(lambda name: fetch(there[f"{below}/{name}"], partial / name), [*files, SEAL, *later], _THREADS))
    partial.rename(run / below)
