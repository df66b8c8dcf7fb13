from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxgpt.config import CheckpointConfig, Config, DataConfig, OptimizerConfig
from jaxgpt.doctor import machine
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.hardware import Gpu, Hardware
from jaxgpt.doctor.machine import check_disks, check_memory, state_bytes
from jaxgpt.model_config import ModelConfig

# 7 ids and 5 positions of width 4, a block of 4 x 12 + 4 x 4 + 4 x 16 + 16 x 4 weights, and what is added: 300 numbers.
SMALL = ModelConfig(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=1)
ONE = 4 * 3 * (7 * 4 + 5 * 4 + 4 * 12 + 12 + 4 * 4 + 4 + 4 * 16 + 16 + 16 * 4 + 4 + 3 * 2 * 4)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiled").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))


def config(output: Path, **changes: object) -> Config:
    return Config(str(output), model=SMALL, checkpoint=CheckpointConfig(keep_last=3, keep_best=1), **changes)  # type: ignore[arg-type]


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(10**15, 0, n_bytes))


def test_a_checkpoint_is_parameters_and_what_the_optimizer_keeps() -> None:
    assert state_bytes(config(Path("run"))) == ONE == 4 * 3 * 300
    assert state_bytes(config(Path("run"), optimizer=OptimizerConfig(name="lion"))) == 4 * 2 * 300


@pytest.mark.parametrize(
    ("n_bytes", "level"), [(5 * ONE, "ok"), (5 * ONE - 1, "warn"), (ONE, "warn"), (ONE - 1, "fail")]
)
def test_room_for_the_checkpoints_that_are_kept(
    n_bytes: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, n_bytes)
    line = next(iter(check_disks(config(tmp_path / "runs/new"))))
    assert line.level == level
    assert line.name == "disk"
    assert f"5 checkpoints of {ONE / 1e6:.3g} MB need {5 * ONE / 1e6:.3g} MB" in line.said
    assert not (tmp_path / "runs").exists()


def test_checkpoints_that_are_there_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run/checkpoints/7/params").mkdir(parents=True)
    (tmp_path / "run/checkpoints/7/params/a").write_bytes(bytes(3 * ONE))
    free(monkeypatch, 2 * ONE)
    line = next(iter(check_disks(config(tmp_path / "run"))))
    assert line.level == "ok"
    assert line.said.endswith(f"need {2 * ONE / 1e6:.3g} MB more")


def test_disks_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 10**8)
    assert [line.said.split(": ")[0] for line in check_disks(None)] == ["this folder", str(tmp_path / "compiled")]
    remote = config(tmp_path / "run", data=DataConfig(path="gs://bucket/pages", cache=str(tmp_path / "pages")))
    lines = list(check_disks(remote))
    assert [line.said.split(": ")[0] for line in lines[1:]] == [str(tmp_path / "pages"), str(tmp_path / "compiled")]
    assert lines[1] == Line("warn", "disk", f"{tmp_path / 'pages'}: 100 MB free, which is little; make room")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert list(check_disks(None))[-1].said.startswith(f"{tmp_path / 'cache/jaxgpt/compiled'} can't be written to")


def test_a_folder_that_can_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    first, *others = check_disks(config(tmp_path / "file/run"))
    assert first.level == "fail"
    assert first.said.startswith(f"{tmp_path / 'file/run'} can't be made, because {tmp_path / 'file'} is a file; ")
    assert others  # the other disks are looked at all the same
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert next(iter(check_disks(config(tmp_path / "run")))).said.startswith(f"{tmp_path} can't be written to; ")


def test_a_checkpoint_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at work removes old ones."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/b").write_bytes(bytes(3 * ONE))
    free(monkeypatch, 2 * ONE)
    is_file = Path.is_file

    def gone(self: Path) -> bool:
        return self.name == "a" or is_file(self)

    def found(self: Path, pattern: str) -> Iterator[Path]:
        yield from (self / "a", self / "b")

    monkeypatch.setattr(Path, "is_file", gone)
    monkeypatch.setattr(Path, "rglob", found)
    assert next(iter(check_disks(config(tmp_path / "run")))).level == "ok"


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(Path, "home", no_home)
    folder, cache = check_disks(None)
    assert folder.level == "ok"
    assert cache.level == "fail"
    assert "where copies are to be kept is not known (Could not determine home directory.); set " in cache.said


def test_a_folder_that_nobody_may_look_into_costs_no_other_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def closed(self: Path) -> bool:
        if self.name == "run":
            raise PermissionError(13, "Permission denied", str(self))
        return exists(self)

    monkeypatch.setattr(Path, "exists", closed)
    first, second = check_disks(config(tmp_path / "run"))
    said = f"{tmp_path / 'run'}: Permission denied; check the path and its permissions"
    assert first == Line("fail", "disk", said)
    assert second.level == "ok"


def kernel(root: Path, total_kb: int, available_kb: int, limit: str = "max", current: int = 0) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total_kb} kB\nMemFree: 3 kB\nMemAvailable: {available_kb} kB\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{current}\n")
    return root


def test_memory(tmp_path: Path) -> None:
    root = kernel(tmp_path, 16_000_000, 9_000_000)
    assert list(check_memory(None, Hardware(), root)) == [Line("ok", "memory", "9.2 GB of 16.4 GB free")]
    large = Config("run", model=ModelConfig(n_embd=1600, n_layer=48, n_head=25))  # 1,557.6M parameters, 12 bytes each
    (line,) = check_memory(large, Hardware(), root)
    assert line.level == "fail"
    assert "9.2 GB of 16.4 GB free, saving and loading a checkpoint needs 18.7 GB; " in line.said


def test_memory_of_a_container(tmp_path: Path) -> None:
    root = kernel(tmp_path, 160_000_000, 90_000_000, limit="4000000000", current=1_500_000_000)
    assert list(check_memory(None, Hardware(), root)) == [Line("ok", "memory", "2.5 GB of 4.0 GB free")]


def test_shared_memory_matters_to_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kernel(tmp_path, 16_000_000, 9_000_000)
    (root / "dev/shm").mkdir(parents=True)
    size = namedtuple("size", "f_blocks f_frsize")
    monkeypatch.setattr(machine.os, "statvfs", lambda path: size(16384, 4096))
    gpu = Gpu("NVIDIA L4", "580.1", None, None)
    assert len(list(check_memory(None, Hardware(gpus=(gpu,)), root))) == 1
    line = list(check_memory(None, Hardware(gpus=(gpu, gpu)), root))[1]
    assert (line.level, line.name) == ("warn", "shm")
    assert "/dev/shm has 67.1 MB" in line.said
    assert line.said.endswith("; docker run --shm-size 1g")
    monkeypatch.setattr(machine.os, "statvfs", lambda path: size(1 << 20, 4096))
    assert len(list(check_memory(None, Hardware(gpus=(gpu, gpu)), root))) == 1
