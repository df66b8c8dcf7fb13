"""cloud/gpu build and run: the commands that Docker gets, what it refuses, and signals and secrets on their way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloud import gpu_command
from cloud.gpu_command import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "gpt2_small.yaml")
# A docker that notes its arguments and environment; `refusal` ends it, and a training waits for a signal.
DOCKER = f"""#!{sys.executable} -IS
import json, os, signal, sys, time
folder = os.path.dirname(os.path.dirname(__file__))
with open(folder + "/calls", "a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if os.path.exists(folder + "/refusal"):
    sys.exit(open(folder + "/refusal").read())
if "train" in sys.argv:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    open(folder + "/ready", "w").close()
    time.sleep(20 if os.path.exists(folder + "/wait") else 0)
"""
# As Docker 28 says them.
NO_DAEMON = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
    "errors pretty printing info"
)
NOT_ALLOWED = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "
    '"http://%2Fvar%2Frun%2Fdocker.sock/v1.50/version": dial unix /var/run/docker.sock: connect: permission denied'
)
# As newer ones do.
NO_SERVICE = (
    "docker: failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if "
    "the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory\n\n"
    "Run 'docker run --help' for more information"
)
NO_RIGHTS = (
    "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock\n\n"
    "Run 'docker run --help' for more information"
)
NO_GPU = (
    "WARNING: Error loading config file: /home/me/.docker/config.json\n"
    "docker: Error response from daemon: no such device\n\nRun 'docker run --help' for more information"
)
NO_IMAGE = "docker: Error response from daemon: No such image: jaxgpt:cuda"
NO_TOOLKIT = (
    'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]\n\n'
    "Run 'docker run --help' for more information"
)


class Docker:
    """On PATH; the clone is an empty folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "bin" / "docker").write_text(DOCKER)
        (folder / "bin" / "docker").chmod(0o755)

    def calls(self) -> list[list[str]]:
        return [arguments for arguments, _ in self._noted()]

    def environments(self) -> list[dict[str, str]]:
        return [environment for _, environment in self._noted()]

    def _noted(self) -> list[tuple[list[str], dict[str, str]]]:
        file = self.folder / "calls"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    found = Docker(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    return found


def test_build(docker: Docker) -> None:
    assert main(["build", "--tag", "mine:1"]) == 0
    assert docker.calls() == [
        ["version"],
        ["build", "--file", "cloud/Dockerfile", "--tag", "mine:1", "."],
    ]


def _run(docker: Docker, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """In a process of its own, which becomes docker; the clone is `docker.folder`."""
    code = f"""
import os, sys
from pathlib import Path
from cloud import gpu_command
gpu_command.ROOT = Path({str(docker.folder)!r})
os.chdir({str(docker.folder)!r})
sys.exit(gpu_command.main(sys.argv[1:]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", "--config", CONFIG, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_run_mounts_what_a_training_needs_and_writes_as_the_user(docker: Docker) -> None:
    options = ["--output", "runs/x", "--train.batch_size", "64"]
    (docker.folder / "big").mkdir()
    out, error = _run(docker, *options, "--volume", "big:/big:ro").communicate(timeout=30)
    assert error == ""
    start = ["run", "--rm", "--pull=never", "--gpus=all"]
    folder = docker.folder
    names = ["WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN"]
    assert docker.calls() == [
        [*start, "jaxgpt:cuda", "--version"],
        [
            *start,
            "--init",
            "--stop-timeout=600",
            "--ipc=host",
            f"--user={os.getuid()}:{os.getgid()}",
            f"--volume={folder}/runs:/jaxgpt/runs",
            f"--volume={folder}/data:/jaxgpt/data:ro",
            f"--volume={folder}/home/.cache/jaxgpt:/cache/jaxgpt",
            f"--volume={CONFIG}:/jaxgpt/config.yaml:ro",
            f"--volume={folder}/big:/big:ro",
            *(f"--env={name}" for name in names),
            "jaxgpt:cuda",
            *("train", "--config", "config.yaml", *options),
        ],
    ]
    assert all((folder / name).is_dir() for name in ("runs", "data", "home/.cache/jaxgpt"))
    assert [line for line in out.splitlines() if not line.startswith("$ docker run --rm --pull=never")] == []


def test_some_gpus_and_the_key_of_the_bucket(docker: Docker) -> None:
    key = docker.folder / "home" / ".config" / "gcloud" / "application_default_credentials.json"
    key.parent.mkdir(parents=True)
    key.touch()
    _run(docker, "--gpus", "device=0,2").communicate(timeout=30)
    call = docker.calls()[-1]
    assert '--gpus="device=0,2"' in call  # Docker reads it as a line of CSV
    assert f"--volume={key}:/credentials.json:ro" in call
    assert "--env=GOOGLE_APPLICATION_CREDENTIALS=/credentials.json" in call


def test_relative_names_of_the_environment_are_no_volumes_of_dockers(docker: Docker) -> None:
    (docker.folder / "key.json").touch()
    _run(docker, GOOGLE_APPLICATION_CREDENTIALS="key.json", XDG_CACHE_HOME="cache").communicate(timeout=30)
    call = docker.calls()[-1]
    assert f"--volume={docker.folder}/cache/jaxgpt:/cache/jaxgpt" in call
    assert f"--volume={docker.folder}/key.json:/credentials.json:ro" in call
    assert (docker.folder / "cache" / "jaxgpt").is_dir()


def test_a_secret_is_in_the_environment_alone(docker: Docker) -> None:
    out, _ = _run(docker, WANDB_API_KEY="hush").communicate(timeout=30)
    assert docker.environments()[-1]["WANDB_API_KEY"] == "hush"
    assert "hush" not in out + json.dumps(docker.calls())


def test_a_signal_reaches_docker_and_its_exit_code_comes_back(docker: Docker) -> None:
    (docker.folder / "wait").touch()
    process = _run(docker)
    until = time.monotonic() + 20
    while not (docker.folder / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("command", "refusal", "message"),
    [
        (["build"], NO_DAEMON, "Docker does not run here; sudo systemctl start docker"),
        (["build"], NOT_ALLOWED, "your account may not use Docker; sudo usermod -aG docker $USER"),
        (["build"], NO_SERVICE, "Docker does not run here; sudo systemctl start docker"),
        (["build"], NO_RIGHTS, "your account may not use Docker; sudo usermod -aG docker $USER"),
        (["run", "--config", CONFIG], NO_GPU, "ended with 1: docker: Error response from daemon: no such device"),
        (["run", "--config", CONFIG], NO_IMAGE, "there is no image jaxgpt:cuda; cloud/gpu build makes it"),
        (["run", "--config", CONFIG], NO_TOOLKIT, "Docker can't give GPUs to a container; install NVIDIA's driver"),
        (["run", "--config", CONFIG], "what is this", "jaxgpt:cuda --version ended with 1: what is this"),
    ],
)
def test_what_docker_refuses_is_explained(
    docker: Docker, command: list[str], refusal: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (docker.folder / "refusal").write_text(refusal)
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert len(docker.calls()) == 1


def test_a_build_that_fails(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_command, "_ask_docker", lambda *args: None)
    (docker.folder / "refusal").write_text("no space left on device")
    assert main(["build"]) == 2
    assert "error: docker ended with 1, as its last lines above say" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.yaml"], "--config none.yaml is no file; give a YAML file, as in configs/"),
        (["--config", CONFIG, "--hf_token", "abc"], "--hf_token looks like a secret, which a command line shows"),
    ],
)
def test_wrong_arguments(
    docker: Docker, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert docker.calls() == []


def test_without_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["build"]) == 2
    assert "error: docker is not installed here; docs.docker.com" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["build"], ["docker version", "docker build --file cloud/Dockerfile"]),
        (["run", "--config", CONFIG, "--seed", "3"], ["docker run --rm", "docker run --rm"]),
        (["slurm", "--nodes", "2", "--config", CONFIG, "--seed", "3"], [f"sbatch --chdir={ROOT} --nodes=2 --gpus-per"]),
    ],
)
def test_a_dry_run_prints_commands_and_runs_none(tmp_path: Path, arguments: list[str], printed: list[str]) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "cloud" / "gpu"), *arguments, "--dry-run"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - begun < 2
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"$ {begin}") for line, begin in zip(lines, printed, strict=True))
    assert lines[-1].endswith("--seed 3") or arguments == ["build"]
    assert list(tmp_path.iterdir()) == []
