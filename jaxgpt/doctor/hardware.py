"""The accelerators of this machine, whether or not JAX can use them, and who uses them now."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.doctor.metadata_server import tpu_type
from jaxgpt.errors import UserError

_GOOGLE, _NVIDIA = "0x1ae0", "0x10de"
# PCI numbers of TPU chips, v2 to v7; source: jax/_src/hardware_utils.py.
_TPU_CHIPS = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_DISPLAY = "0x03"  # how the PCI class of a GPU begins; its sound has another
_SMI_SECONDS = 10.0
_MIB = 1 << 20
_HELD = re.compile(r"/dev/(accel\d+|vfio/\d+|nvidia\d+)$")


@dataclass(frozen=True)
class Gpu:
    """As nvidia-smi tells of it. total, used: bytes of its memory; None where it does not say."""

    name: str
    driver: str
    total: int | None
    used: int | None


@dataclass(frozen=True)
class Hardware:
    """tpu_chips: how many are seen; tpu_type: of the slice, as v3-128; gpus: that nvidia-smi lists; gpu_trouble: why it
    lists none although there is one."""

    tpu_chips: int = 0
    tpu_type: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_trouble: str | None = None

    def __str__(self) -> str:
        found = []
        if self.tpu_chips:
            chips = f"{self.tpu_chips} TPU chip{'s' * (self.tpu_chips > 1)}"
            found.append(f"{chips} of a {self.tpu_type}" if self.tpu_type else chips)
        for name in dict.fromkeys(gpu.name for gpu in self.gpus):
            found.append(f"{sum(gpu.name == name for gpu in self.gpus)} {name}")
        return ", ".join(found) or "no accelerator"


def find_hardware(root: Path = Path("/")) -> Hardware:
    """root: where sys and dev are."""
    cards = list(_pci(root))
    chips = sum(vendor == _GOOGLE and device in _TPU_CHIPS for vendor, device, _ in cards)
    chips = chips or sum(bool(re.fullmatch(r"accel\d+", path.name)) for path in (root / "dev").glob("accel*"))
    has_gpu = any(vendor == _NVIDIA and kind.startswith(_DISPLAY) for vendor, _, kind in cards)
    has_gpu |= (root / "dev/nvidiactl").exists()
    slice_type = tpu_type()
    try:
        return Hardware(chips, slice_type, _gpus())
    except UserError as error:
        return Hardware(chips, slice_type, gpu_trouble=str(error) if has_gpu else None)


def _pci(root: Path) -> Iterator[tuple[str, str, str]]:
    """(vendor, device, class) of every card."""
    for folder in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, device, kind = ((folder / name).read_text().strip() for name in ("vendor", "device", "class"))
        except OSError:
            continue
        yield vendor, device, kind


def _gpus() -> tuple[Gpu, ...]:
    """UserError where nvidia-smi is missing, fails or lists none."""
    fields = "name,driver_version,memory.total,memory.used"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SMI_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError("nvidia-smi is not installed") from None
    except OSError as error:
        raise UserError(f"nvidia-smi does not start ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"nvidia-smi gave no answer in {_SMI_SECONDS:g} s") from None
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    found = tuple(Gpu(row[0], row[1], _mib(row[2]), _mib(row[3])) for row in rows if len(row) == 4)
    if done.returncode or not found:
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise UserError(f"nvidia-smi ended with {done.returncode} ({said or 'it lists no GPU'})")
    return found


def _mib(cell: str) -> int | None:
    return int(cell) * _MIB if cell.isdigit() else None


def holders(root: Path = Path("/")) -> list[str]:
    """Other processes that have an accelerator open; those of other users are seen by root alone."""
    found = []
    for folder in sorted((root / "proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if int(folder.name) == os.getpid():
            continue
        if any(_HELD.search(path) for path in _open_files(folder)):
            with suppress(OSError):  # it has ended meanwhile
                found.append(f"process {folder.name} ({(folder / 'comm').read_text(errors='replace').strip()})")
    return found


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # it has ended, or is not ours to look into
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(descriptor)
