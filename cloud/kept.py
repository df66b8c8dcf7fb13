"""What this machine keeps of a slice: what was launched on it, and the code that it got."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.errors import CloudError
from cloud.settings import Settings
from cloud.source import Code

_ARCHIVE = ".tar.gz"


def write(settings: Settings, name: str, content: bytes) -> None:
    """Whole or not at all."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{name}.new"
    new.write_bytes(content)
    new.rename(folder / name)


def read(settings: Settings, name: str) -> bytes | None:
    try:
        return (_folder(settings) / name).read_bytes()
    except FileNotFoundError:
        return None


def forget(settings: Settings, name: str) -> None:
    (_folder(settings) / name).unlink(missing_ok=True)


def keep_code(settings: Settings, code: Code) -> None:
    """In place of what was kept before."""
    name = code.version + _ARCHIVE
    write(settings, name, code.archive)
    for other in _folder(settings).glob(f"*{_ARCHIVE}"):
        if other.name != name:
            other.unlink(missing_ok=True)


def kept_code(settings: Settings) -> Code:
    """What the hosts were set up with; CloudError where that was not done from here."""
    for file in _folder(settings).glob(f"*{_ARCHIVE}"):
        return Code(file.name.removesuffix(_ARCHIVE), file.read_bytes())
    raise CloudError(f"the hosts of {settings.name} were not set up from here; cloud/tpu setup does it")


@contextmanager
def only_watch(settings: Settings) -> Iterator[None]:
    """CloudError where another watch of the slice is at work: each would undo what the other does."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "watch.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CloudError(f"{settings.name} is being watched from here already; end that with Ctrl-C") from None
        yield


def _folder(settings: Settings) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "jaxgpt" / "slices" / f"{settings.zone}.{settings.name}"
