"""cloud/Dockerfile: what goes into the image, and, where no Docker runs, its steps without Docker."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from small_run import XLA_FLAGS, write_run

ROOT = Path(__file__).parents[2]
SECRET = ("cloud/settings.env", ".git/config", "runs/mine/config.yaml", "data/pages/manifest.json", ".venv/bin/python")


class Step(NamedTuple):
    instruction: str
    rest: str


def steps() -> list[Step]:
    """Of the Dockerfile, lines that go on put together."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "cloud" / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Step(*line.split(None, 1)) for line in lines]


def of(instruction: str) -> list[str]:
    return [step.rest for step in steps() if step.instruction == instruction]


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets a file through: the last line that fits it or one of its folders decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    parts = name.split("/")
    names = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    sent = True
    for line in lines:
        pattern = line.removeprefix("!")
        fitting = names if not pattern.startswith("**/") else parts
        if any(fnmatch.fnmatchcase(one, pattern.removeprefix("**/")) for one in fitting):
            sent = line.startswith("!")
    return sent


def copy(rest: str, folder: Path) -> None:
    """As COPY does, of what .dockerignore lets through: files into a folder, and what folders hold."""
    *sources, target = rest.split()
    for source in sources:
        for path in [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and is_sent(name):
                inside = path.name if (ROOT / source).is_file() else path.relative_to(ROOT / source)
                (folder / target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / target / inside)


def test_what_is_copied_is_there_and_sent() -> None:
    for rest in of("COPY"):
        for source in rest.split()[:-1]:
            path = ROOT / source
            files = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.yaml")]
            assert files, f"{source} is missing"
            assert all(is_sent(file.relative_to(ROOT).as_posix()) for file in files)


def test_nothing_secret_or_large_is_sent() -> None:
    assert [name for name in SECRET if is_sent(name)] == []
    assert not is_sent("jaxgpt/__pycache__/cli.cpython-312.pyc")
    assert not is_sent("cloud/tpu")


def test_it_is_pinned_small_and_nobody_is_root() -> None:
    (base,) = of("FROM")
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    kinds = [step.instruction for step in steps()]
    assert kinds.index("USER") > max(at for at, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert of("USER") == ["jaxgpt"]
    assert json.loads(of("ENTRYPOINT")[0]) == ["jaxgpt"]  # a list: the training gets signals itself
    install = of("RUN")[0]
    assert install.split()[-3:] == ["cloud/install.sh", "cuda", "/opt/jaxgpt"]
    assert "PIP_NO_CACHE_DIR=1" in install
    assert "UV_NO_CACHE=1" in install
    assert "/opt/jaxgpt/bin:$PATH" in of("ENV")[0]


@pytest.mark.slow
def test_its_steps_make_an_environment_that_trains(tmp_path: Path) -> None:
    """The real packages from the index, by the script of the image; but for a CPU, on this machine."""
    image, venv = tmp_path / "jaxgpt", tmp_path / "opt"
    installed = 0
    for step in steps():
        if step.instruction == "COPY":
            copy(step.rest, image)
        elif "cloud/install.sh" in step.rest:
            command = step.rest[step.rest.index("cloud/install.sh") :].replace("cuda /opt/jaxgpt", f"cpu {venv}")
            subprocess.run(command, shell=True, cwd=image, check=True)
            installed += 1
    assert installed == 1
    assert not any(list(venv.glob(f"lib/python3*/site-packages/{name}")) for name in ("tensorflow", "torch", "gradio"))

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"XLA_FLAGS": XLA_FLAGS}

    def run(program: str, *arguments: str) -> str:
        command = [str(venv / "bin" / program), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert re.fullmatch(r"jaxgpt \d+\.\d+\.\d+\n", run("jaxgpt", "--version"))
    assert "is trained: 1 steps" in run("jaxgpt", "train", *write_run(tmp_path, steps=1), "run")
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    # What a run needs beside that: logs, buckets, checks, perplexity.
    run("python", "-c", "import gcsfs, wandb, jaxgpt.evaluate.measuring, jaxgpt.data.upload")


def _docker_runs() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_image_builds_and_starts() -> None:
    if not _docker_runs():
        pytest.skip("no Docker runs here; its steps were run without it")
    tag = "jaxgpt:test"
    subprocess.run(["cloud/gpu", "build", "--tag", tag], cwd=ROOT, check=True)
    run = ["docker", "run", "--rm", "--user=4242:4242", tag]
    assert subprocess.run([*run, "--version"], capture_output=True, text=True, check=True).stdout.startswith("jaxgpt ")
