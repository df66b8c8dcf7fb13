"""Room on the disks and in the memory of this machine, against what a run would need."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from jaxgpt.caches import cache_folder
from jaxgpt.config import Config
from jaxgpt.data.storage import is_remote
from jaxgpt.doctor.cgroup import memory_limits
from jaxgpt.doctor.check import Line, explained, size
from jaxgpt.doctor.hardware import Hardware
from jaxgpt.errors import UserError

# Numbers of 32 bits per parameter, the parameter among them; docs/training.md has those of the optimisers.
_KEPT = {"adamw": 3, "adafactor": 2, "lion": 2, "muon": 3}
_LITTLE = 2e9  # bytes free, of a disk of whose use nothing is known
_COMPILED = 1e9  # bytes of compiled programs that a run may leave
_SHM = 1 << 30  # bytes by which the processes of several GPUs get on


def state_bytes(cfg: Config) -> int:
    """About what a checkpoint takes."""
    return 4 * _KEPT[cfg.optimizer.name] * cfg.model.n_params


def check_disks(cfg: Config | None) -> Iterator[Line]:
    """cfg: None where no configuration was given."""
    yield _of_disk(lambda: _output(Path(cfg.output), cfg) if cfg else _plain(Path()))
    if cfg and is_remote(cfg.data.path):
        yield _of_disk(lambda: _plain(cache_of(cfg)))
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if compiled is None:
        yield _of_disk(_not_compiled)
    elif "://" not in compiled:
        yield _of_disk(lambda: _plain(Path(compiled), _COMPILED))


def _of_disk(check: Callable[[], Line]) -> Line:
    try:
        return check()
    except (UserError, OSError) as error:
        return Line("fail", "disk", explained(error))


def cache_of(cfg: Config | None) -> Path:
    """Where copies are kept; UserError where nothing tells of a folder."""
    try:
        return cache_folder(cfg.data.cache if cfg else None)
    except RuntimeError as error:  # no home
        raise UserError(
            f"where copies are to be kept is not known ({error}); set data.cache and XDG_CACHE_HOME to folders"
        ) from None


def _not_compiled() -> Line:
    said = f"{cache_of(None) / 'compiled'} can't be written to, so every start compiles its programs anew; set "
    return Line("warn", "disk", f"{said}JAX_COMPILATION_CACHE_DIR to a folder that can")


def _plain(folder: Path, little: float = _LITTLE) -> Line:
    free = free_bytes(folder)
    if free < little:
        return Line("warn", "disk", f"{_named(folder)}: {size(free)} free, which is little; make room")
    return Line("ok", "disk", f"{_named(folder)}: {size(free)} free")


def _output(folder: Path, cfg: Config) -> Line:
    """Against what is kept at once and what is being written; those that are kept for ever come on top."""
    free, one = free_bytes(folder), state_bytes(cfg)
    count = cfg.checkpoint.keep_last + cfg.checkpoint.keep_best + 1
    there = _bytes_below(folder / "checkpoints")
    needed = max(count * one - there, one)
    said = f"{_named(folder)}: {size(free)} free, {count} checkpoints of {size(one)} need {size(needed)}"
    said += " more" if there else ""
    if free < needed:
        way_out = "; make room, lower checkpoint.keep_last, or give an --output on another disk"
        return Line("fail" if free < one else "warn", "disk", said + way_out)
    return Line("ok", "disk", said)


def _bytes_below(folder: Path) -> int:
    """A run that is at work removes old checkpoints meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def free_bytes(folder: Path) -> int:
    """Bytes on the disk where the folder is or would be; UserError where it can't be written to."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{folder} can't be made, because {there} is a file; give another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} can't be written to; give another folder, or change its permissions")
    return shutil.disk_usage(there).free


def _named(folder: Path) -> str:
    return "this folder" if folder == Path() else str(folder)


def check_memory(cfg: Config | None, hardware: Hardware, root: Path = Path("/")) -> Iterator[Line]:
    """root: where proc, sys and dev are."""
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (root / "proc/meminfo").is_file():
        fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for limit in memory_limits(root):  # of this container or job
        total, available = min(total, limit.bytes), min(available, limit.free)
    said = f"{size(available)} of {size(total)} free"
    copy = state_bytes(cfg) if cfg else 0
    if cfg:
        said += f", saving and loading a checkpoint needs {size(copy)}"
    if available < copy:
        way_out = "; end other programs, or take a machine with more memory"
        yield Line("fail" if total < copy else "warn", "memory", said + way_out)
    else:
        yield Line("ok", "memory", said)
    shm = os.statvfs(root / "dev/shm") if (root / "dev/shm").is_dir() else None
    room = shm.f_blocks * shm.f_frsize if shm else _SHM
    if room < _SHM and len(hardware.gpus) > 1:
        said = f"/dev/shm has {size(room)}, too little for several GPUs to exchange what they compute"
        yield Line("warn", "shm", f"{said}; docker run --shm-size 1g")
