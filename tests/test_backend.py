"""What is settled before JAX starts."""

import os
import subprocess
import sys

import pytest

from jaxgpt.backend import likely_platform, set_flags
from jaxgpt.commands import training
from jaxgpt.config import Config, TrainConfig
from jaxgpt.errors import UserError


@pytest.mark.parametrize(
    ("platforms", "expected"), [("cpu", "cpu"), ("tpu,cpu", "tpu"), ("cuda", "gpu"), ("rocm,cpu", "gpu")]
)
def test_the_platform_is_what_jax_was_told(platforms: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert likely_platform() == expected


def test_without_a_word_it_is_what_is_installed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for package, expected in (("jax_plugins/xla_cuda13", "gpu"), ("libtpu", "tpu")):
        (tmp_path / package).mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
        code = "from jaxgpt.backend import likely_platform; print(likely_platform())"
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        found = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert found.stdout == f"{expected}\n", found.stderr


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def test_flags_of_the_users_own_stay(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("XLA_FLAGS", "--xla_a=1 --xla_b")
    set_flags("--xla_a=2 --xla_c=3 --xla_tpu_d=4")
    assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_b --xla_c=3"
    assert os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_d=4"


def test_none_and_a_cpu_have_no_flags(variables: pytest.MonkeyPatch) -> None:
    for platforms, flags in (("cuda", "none"), ("cpu", "auto"), ("tpu", "auto")):
        variables.setenv("JAX_PLATFORMS", platforms)
        set_flags(flags)
        assert "XLA_FLAGS" not in os.environ
        assert "LIBTPU_INIT_ARGS" not in os.environ


def test_xla_knows_the_flags_of_every_preset(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("JAX_PLATFORMS", "cuda")
    set_flags("auto")
    assert os.environ["XLA_FLAGS"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, check=True)


@pytest.mark.parametrize("flags", ["", "fast", "--xla_a=1 b", "auto none"])
def test_other_flags_are_refused_with_what_is_allowed(flags: str) -> None:
    with pytest.raises(UserError, match=r"train.xla_flags is .*auto, none, or flags like"):
        TrainConfig(xla_flags=flags)


AGAIN = """
import os, sys
from jaxgpt import cli
def train(arguments):
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *arguments)
cli.COMMANDS["train"] = cli.train = train
print(os.getpid(), flush=True)
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such pages")
@pytest.mark.parametrize(
    ("platforms", "own", "starts", "has"),
    [("cpu", None, 2, "glibc.malloc.hugetlb=1"), ("cpu", "mine", 1, "mine"), ("cuda", None, 1, "None")],
)
def test_training_on_a_cpu_starts_again_with_huge_pages(platforms: str, own: str | None, starts: int, has: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "GLIBC_TUNABLES": own or ""}
    if own is None:
        del environment["GLIBC_TUNABLES"]
    command = [sys.executable, "-c", AGAIN, "train", "--output", "a b"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len({line.split()[0] for line in found}) == 1  # one process, however often it started
    assert len(found) == starts + 1
    assert found[-1].split(maxsplit=1)[1] == f"{has} --output a b"


class _ReachedError(Exception):
    pass


def test_the_command_sets_the_flags_first(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def reach(cfg: Config) -> None:
        raise _ReachedError

    monkeypatch.setattr(training, "set_flags", done.append)
    monkeypatch.setattr(training, "_train", reach)
    with pytest.raises(_ReachedError):
        training.train(["--output", "runs/none", "--train.xla_flags", "none"])
    assert done == ["none"]
