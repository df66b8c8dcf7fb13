"""Accelerators that are not here: a made-up /sys, /dev and /proc, and a stand-in for nvidia-smi."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loopback import metadata_server

from jaxgpt.doctor import metadata_server as metadata
from jaxgpt.doctor.hardware import Gpu, Hardware, find_hardware, holders

# What nvidia-smi printed on a machine with an H100.
H100 = "NVIDIA H100 80GB HBM3, 580.159.04, 81559, 0"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of PATH, so that no nvidia-smi of this machine is found; and it is not in Google Cloud."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(metadata, "_PRODUCT", tmp_path / "product_name")
    return folder


def card(root: Path, number: int, vendor: str, device: str, kind: str) -> None:
    folder = root / f"sys/bus/pci/devices/0000:00:{number:02x}.0"
    folder.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", device), ("class", kind)):
        (folder / name).write_text(value + "\n")


def nvidia_smi(folder: Path, lines: str, code: int = 0) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!/bin/sh\necho '{lines}'\nexit {code}\n")
    script.chmod(0o755)


def test_nothing(tmp_path: Path) -> None:
    card(tmp_path, 0, "0x8086", "0x1237", "0x060000")
    card(tmp_path, 1, "0x1ae0", "0x0042", "0x020000")  # Google's network card
    card(tmp_path, 2, "0x10de", "0x10f0", "0x040300")  # the sound of a GPU
    assert find_hardware(tmp_path) == Hardware()
    assert str(find_hardware(tmp_path)) == "no accelerator"


def test_tpu_chips_of_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        card(tmp_path, number, "0x1ae0", "0x0027", "0x120000")
    assert str(find_hardware(tmp_path)) == "4 TPU chips"
    with metadata_server(zone="us-central1-a", accelerator_type="v3-128") as (host, _):
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        assert find_hardware(tmp_path) == Hardware(4, "v3-128")
        assert str(find_hardware(tmp_path)) == "4 TPU chips of a v3-128"


def test_tpu_chips_without_the_bus(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("accel0", "accel", "accelerate"):
        (tmp_path / "dev" / name).touch()
    assert find_hardware(tmp_path) == Hardware(1)


def test_gpus(tmp_path: Path, path: Path) -> None:
    nvidia_smi(path, f"{H100}\n{H100}\nNVIDIA L4, 580.159.04, [N/A], [N/A]")
    found = find_hardware(tmp_path)
    h100 = Gpu("NVIDIA H100 80GB HBM3", "580.159.04", 81559 * 2**20, 0)
    assert found.gpus == (h100, h100, Gpu("NVIDIA L4", "580.159.04", None, None))
    assert str(found) == "2 NVIDIA H100 80GB HBM3, 1 NVIDIA L4"


def test_a_gpu_whose_driver_does_not_work(tmp_path: Path, path: Path) -> None:
    said = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    nvidia_smi(path, said, code=9)
    assert find_hardware(tmp_path) == Hardware()  # a left-over program is no GPU
    card(tmp_path, 0, "0x10de", "0x2330", "0x030200")
    assert find_hardware(tmp_path).gpu_trouble == f"nvidia-smi ended with 9 ({said})"
    (path / "nvidia-smi").unlink()
    assert find_hardware(tmp_path).gpu_trouble == "nvidia-smi is not installed"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"\x7fELF, but cut off", 0o755, "nvidia-smi does not start (Exec format error)"),
        (b"#!/bin/sh\nprintf 'no\\377t well'; exit 3\n", 0o755, "nvidia-smi ended with 3 (no\ufffdt well)"),
    ],
)
def test_a_broken_nvidia_smi(content: bytes, mode: int, said: str, tmp_path: Path, path: Path) -> None:
    (path / "nvidia-smi").write_bytes(content)
    (path / "nvidia-smi").chmod(mode)
    card(tmp_path, 0, "0x10de", "0x2330", "0x030200")
    assert find_hardware(tmp_path) == Hardware(gpu_trouble=said)


def test_who_holds_an_accelerator(tmp_path: Path) -> None:
    opened = {"7": "/dev/accel0", "30": "/dev/vfio/2", "9": "/dev/nvidia3", "31": "/dev/vfio/vfio", "32": "/dev/null"}
    for number, target in {**opened, str(os.getpid()): "/dev/accel1"}.items():
        folder = tmp_path / "proc" / number
        (folder / "fd").mkdir(parents=True)
        (folder / "fd/3").symlink_to(target)
        (folder / "comm").write_text("python3\n")
    (tmp_path / "proc/9/comm").write_bytes("größe".encode()[:3])  # the kernel cuts a name anywhere
    (tmp_path / "proc/40").mkdir()  # it ended meanwhile
    assert holders(tmp_path) == ["process 7 (python3)", "process 9 (gr\ufffd)", "process 30 (python3)"]


def test_where_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metadata.zone() is None
    assert metadata.tpu_type() is None
    with metadata_server(zone="europe-west4-a") as (host, asked):
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        assert (metadata.zone(), metadata.region(), metadata.tpu_type()) == ("europe-west4-a", "europe-west4", None)
        assert len(asked) == 3
    assert metadata.zone() is None  # nobody answers any more


@pytest.fixture
def no_web_server() -> Iterator[str]:
    """HOST:PORT of one that answers, and not as the web does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_what_is_no_metadata_server_tells_nothing(no_web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in (no_web_server, "a b", "host:port", "[", "x" * 70, ""):
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        assert (metadata.zone(), metadata.tpu_type()) == (None, None)


def test_elsewhere_the_network_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_request(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(metadata.urllib.request, "build_opener", no_request)
    (tmp_path / "product_name").write_text("Standard PC\n")
    assert metadata.zone() is None
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    with pytest.raises(AssertionError):
        metadata.zone()
