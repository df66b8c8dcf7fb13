"""Hand-made sets of packages, with the requirements of the real ones."""

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxgpt.doctor import versions
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.hardware import Gpu, Hardware
from jaxgpt.doctor.versions import check_versions

JAX = [
    "jaxlib<=0.10.2,>=0.10.1",
    "numpy>=2.0",
    'jaxlib<=0.10.2,>=0.10.2; extra == "tpu"',
    'libtpu==0.0.42.*; extra == "tpu"',
    'jaxlib<=0.10.2,>=0.10.2; extra == "cuda12-local"',
    'jax-cuda12-plugin<=0.10.2,>=0.10.2; extra == "cuda12-local"',
    'jaxlib<=0.10.2,>=0.10.2; extra == "cuda13-local"',
    'jax-cuda13-plugin<=0.10.2,>=0.10.2; extra == "cuda13-local"',
]
PLUGIN = [
    "jax-cuda13-pjrt==0.10.2",
    'nvidia-cublas>=13.0.0.19; sys_platform == "linux" and extra == "with-cuda"',
    'nvidia-cudnn-cu13<10.0,>=9.12.0.46; sys_platform == "linux" and extra == "with-cuda"',
]
Packages = dict[str, tuple[str, list[str]]]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Packages:
    """name -> (version, requirements) of what is installed: a good environment for a CPU, which pins what is there."""
    there: Packages = {
        "jaxgpt": ("0.1.0", ["jax<0.13,>=0.10", "flax>=0.12"]),
        "jax": ("0.10.2", JAX),
        "jaxlib": ("0.10.2", []),
        "numpy": ("2.4.6", []),
        "flax": ("0.12.8", ["jax>=0.10.0", "optax", 'clu<=0.0.9; python_version < "3.10" and extra == "testing"']),
        "optax": ("0.2.8", ["jax>=0.5.3"]),
        "orbax-checkpoint": ("0.12.8", ["jax >= 0.6.0"]),
    }

    def found(name: str) -> tuple[str, list[str]]:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    fake = SimpleNamespace(
        version=lambda name: found(name)[0],
        requires=lambda name: found(name)[1],
        PackageNotFoundError=PackageNotFoundError,
    )
    monkeypatch.setattr(versions, "metadata", fake)
    pins = tmp_path / "requirements-train.txt"
    pins.write_text("# pins\n-c constraints.txt\njax==0.10.2\nflax==0.12.8\njsonargparse[signatures]==4.53.0\n")
    monkeypatch.setattr(versions, "_REQUIREMENTS", pins)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(versions.sys, "prefix", str(tmp_path / "venv"))
    return there


def lines(hardware: Hardware | None = None) -> dict[str, Line]:
    return {line.name: line for line in check_versions(hardware or Hardware())}


def gpus(driver: str) -> Hardware:
    return Hardware(gpus=(Gpu("NVIDIA L4", driver, 24 << 30, 0),) * 2)


def with_cuda(packages: Packages, version: str = "0.10.2", pjrt: str = "0.10.2", cudnn: str = "9.20.0.48") -> None:
    packages["jax-cuda13-plugin"] = (version, PLUGIN)
    packages["jax-cuda13-pjrt"] = (pjrt, [])
    packages["nvidia-cudnn-cu13"] = (cudnn, [])


def test_what_fits_is_well(packages: Packages) -> None:
    found = lines()
    assert {line.level for line in found.values()} == {"ok"}
    assert list(found) == ["python", "jaxgpt", "jax", "packages"]
    assert found["jax"].said == "0.10.2 with jaxlib 0.10.2"
    assert found["packages"].said.startswith("flax 0.12.8, optax 0.2.8, orbax-checkpoint 0.12.8, as requirements")


def test_the_packages_of_this_environment_fit() -> None:
    assert {line.level for line in check_versions(Hardware())} <= {"ok", "warn"}


@pytest.mark.parametrize(("jaxlib", "level"), [("0.10.1", "warn"), ("0.10.0", "fail"), ("0.11.0", "fail")])
def test_jaxlib_of_another_jax(packages: Packages, jaxlib: str, level: str) -> None:
    packages["jaxlib"] = (jaxlib, [])
    said = f"0.10.2 with jaxlib {jaxlib}, which belongs to another; python -m pip install jaxlib==0.10.2"
    assert lines()["jax"] == (level, "jax", said)


def test_jax_is_missing(packages: Packages) -> None:
    del packages["jaxlib"]
    assert lines()["jax"].said.startswith("jaxlib is not installed; python -m pip install -r ")


def test_packages_that_want_others(packages: Packages) -> None:
    packages["jax"] = ("0.9.1", [])
    packages["jaxlib"] = ("0.9.1", [])
    del packages["optax"]
    line = lines()["packages"]
    assert line.level == "fail"
    assert line.said == (
        "jaxgpt wants jax<0.13,>=0.10 (there is 0.9.1), flax wants jax>=0.10.0 (there is 0.9.1), flax wants optax (not "
        "installed); python -m pip install -r requirements-train.txt"
    )


def test_another_version_than_the_pinned_one(packages: Packages) -> None:
    packages["flax"] = ("0.12.9", [])
    line = lines()["packages"]
    assert line.level == "warn"
    assert "flax is 0.12.9, requirements-train.txt pins 0.12.8" in line.said


def test_the_package_is_not_installed(packages: Packages) -> None:
    del packages["jaxgpt"]
    assert lines()["jaxgpt"].level == "warn"


def test_a_tpu_and_the_cpu_build(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "4 TPU chips of a v3-8 in this machine, but jax is the CPU build (libtpu is not installed); python -m "
        'pip install "jax[tpu]==0.10.2"'
    )
    assert lines(Hardware(4, "v3-8"))["libtpu"] == ("fail", "libtpu", said)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert lines(Hardware(4, "v3-8"))["libtpu"].level == "warn"


def test_libtpu_as_jax_wants_it(packages: Packages) -> None:
    packages["libtpu"] = ("0.0.42.1", [])
    assert lines(Hardware(4))["libtpu"] == ("ok", "libtpu", "0.0.42.1, which is what jax 0.10.2 wants")
    assert lines()["libtpu"].said.endswith("wants, and no TPU is here")
    packages["libtpu"] = ("0.0.30", [])
    assert lines(Hardware(4))["libtpu"] == (
        "fail",
        "libtpu",
        'jax wants libtpu==0.0.42.* (there is 0.0.30); python -m pip install "jax[tpu]==0.10.2"',
    )


@pytest.mark.parametrize(("driver", "cuda"), [("580.159.04", 13), ("535.54.03", 12)])
def test_a_gpu_and_the_cpu_build(packages: Packages, driver: str, cuda: int) -> None:
    line = lines(gpus(driver))["cuda"]
    assert line.level == "fail"
    assert line.said.startswith("2 NVIDIA L4 in this machine, but jax is the CPU build")
    assert line.said.endswith(f'; python -m pip install "jax[cuda{cuda}]==0.10.2"')


def test_cuda_that_fits(packages: Packages) -> None:
    with_cuda(packages)
    found = lines(gpus("580.159.04"))
    assert found["cuda"] == ("ok", "cuda", "plugin 0.10.2 for CUDA 13")
    assert found["driver"] == ("ok", "driver", "580.159.04, new enough for CUDA 13")


@pytest.mark.parametrize(
    ("versions_", "said"),
    [
        ({"version": "0.10.1"}, "jax wants jax-cuda13-plugin<=0.10.2,>=0.10.2 (there is 0.10.1);"),
        ({"pjrt": "0.10.1"}, "jax-cuda13-plugin wants jax-cuda13-pjrt==0.10.2 (there is 0.10.1);"),
        ({"cudnn": "9.1.0"}, "jax-cuda13-plugin wants nvidia-cudnn-cu13<10.0,>=9.12.0.46 (there is 9.1.0);"),
    ],
)
def test_cuda_that_does_not_fit(packages: Packages, versions_: dict[str, str], said: str) -> None:
    with_cuda(packages, **versions_)
    line = lines(gpus("580.159.04"))["cuda"]
    assert line.level == "fail"
    assert line.said == f'{said} python -m pip install --upgrade "jax[cuda13]==0.10.2"'


@pytest.mark.parametrize(
    ("driver", "way_out"),
    [("579.9", 'newer one, or python -m pip install "jax[cuda12]==0.10.2"'), ("470.82", "newer one")],
)
def test_a_driver_that_is_too_old(packages: Packages, driver: str, way_out: str) -> None:
    with_cuda(packages)
    said = f"NVIDIA's driver {driver} is older than the 580 that CUDA 13 needs; install a {way_out}"
    assert lines(gpus(driver))["driver"] == ("fail", "driver", said)


def test_the_half_of_a_plugin(packages: Packages) -> None:
    with_cuda(packages)
    del packages["jax-cuda13-pjrt"]
    line = lines(gpus("580.1"))["cuda"]
    assert line.level == "fail"
    assert line.said.startswith(
        "jax-cuda13-plugin wants jax-cuda13-pjrt==0.10.2 (not installed); python -m pip install"
    )


def test_two_plugins(packages: Packages) -> None:
    with_cuda(packages)
    packages["jax-cuda12-plugin"] = ("0.10.2", [])
    assert lines(gpus("580.1"))["cuda"].said.startswith(
        "the plugins for CUDA 12 and 13 are both installed; python -m pip uninstall"
    )


def test_a_gpu_without_a_driver(packages: Packages) -> None:
    line = lines(Hardware(gpu_trouble="nvidia-smi is not installed"))["driver"]
    assert line.level == "fail"
    assert line.said.startswith("an NVIDIA GPU is in this machine, but nvidia-smi is not installed; install NVIDIA's")


@pytest.mark.parametrize("hardware", [Hardware(4), gpus("580.1")], ids=["tpu", "cuda"])
def test_without_jax_the_pinned_one_is_what_to_install(packages: Packages, hardware: Hardware) -> None:
    del packages["jax"]
    packages["libtpu"] = ("0.0.42.1", [])
    assert "None" not in " ".join(map(str, check_versions(hardware)))
    del packages["libtpu"]
    line = lines(hardware)["libtpu" if hardware.tpu_chips else "cuda"]
    wanted = "tpu" if hardware.tpu_chips else "cuda13"
    assert line.said.endswith(f'; python -m pip install "jax[{wanted}]==0.10.2"')


@pytest.fixture
def stamp(packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an environment as cloud/install.sh leaves it, in a clone: of a stand-in for uv, so it holds nothing."""
    root = Path(__file__).parents[2]
    (tmp_path / "my clone/cloud").mkdir(parents=True)
    for name in ("cloud/install.sh", *(path.name for path in root.glob("*.txt")), "pyproject.toml"):
        shutil.copy(root / name, tmp_path / "my clone" / name)
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin/uv"
    uv.write_text(f'#!/bin/sh\necho uv 99.0.0\necho "$*" >> {tmp_path / "calls"}\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(versions, "_REQUIREMENTS", tmp_path / "my clone/requirements-train.txt")
    packages["flax"] = ("0.12.1", [])
    install(f"'{tmp_path}/my clone/cloud/install.sh' cpu {tmp_path / 'venv'}")
    return tmp_path / "venv/installed-from"


def install(command: str) -> None:
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=30)


def test_the_way_out_makes_the_environment_of_install_sh_anew(stamp: Path, tmp_path: Path) -> None:
    before, calls = stamp.read_text(), (tmp_path / "calls").read_text()
    (stamp.parent / "broken").touch()
    line = lines()["packages"]
    assert line.level == "warn"
    install(line.said.rpartition("; ")[2])
    assert (tmp_path / "calls").read_text() == 2 * calls
    assert not (stamp.parent / "broken").exists()
    assert stamp.read_text() == before


@pytest.mark.parametrize(
    ("hardware", "there", "kind"),
    [
        (Hardware(), None, "cpu"),
        (Hardware(4), None, "tpu"),
        (Hardware(tpu_type="v3-8"), "jax-cuda13-plugin", "tpu"),
        (gpus("580.1"), None, "cuda"),
        (Hardware(gpu_trouble="nvidia-smi is not installed"), None, "cuda"),
        (Hardware(), "jax-cuda13-plugin", "cuda"),
        (Hardware(), "libtpu", "tpu"),
    ],
)
def test_every_way_out_names_the_kind_of_machine(
    hardware: Hardware, there: str | None, kind: str, packages: Packages, stamp: Path
) -> None:
    if there:
        packages[there] = ("0.0.1", [])
    del packages["jaxlib"], packages["optax"]
    wrong = [line for line in check_versions(hardware) if line.level != "ok" and line.name != "driver"]
    assert len(wrong) >= 2
    for line in wrong:
        assert line.said.endswith(
            f"; echo > {stamp} && bash '{versions._REQUIREMENTS.parent}/cloud/install.sh' {kind} {stamp.parent}"
        )


def test_an_environment_of_install_sh_has_one_cuda(packages: Packages, stamp: Path) -> None:
    with_cuda(packages)
    assert lines(gpus("579.9"))["driver"].said.endswith("; install a newer one")
    packages["jax-cuda12-plugin"] = ("0.10.2", [])
    assert f"are both installed; echo > {stamp} && " in lines(gpus("580.1"))["cuda"].said


def test_an_environment_of_somebody_else(stamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.os, "access", lambda path, mode: False)
    said = lines()["packages"].said
    assert f"; as the owner of {stamp.parent}: echo > {stamp} && " in said
    assert said.endswith("; in an image: cloud/gpu build")
