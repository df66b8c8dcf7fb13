"""cloud/gpu slurm and cloud/slurm.sbatch: processes that meet, and what becomes of a job that has to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_stand_in
from small_run import XLA_FLAGS, write_run
from uv_stand_in import OURS, Uv, clone

from cloud import gpu_command

# A jaxgpt that counts its starts and ends as the last word says; where that is `wait`, the first waits for a signal.
FAKE = """#!/bin/bash
[ "$*" = --version ] && exec echo jaxgpt
echo start >> FOLDER/starts
[ "${@: -1}" != wait ] && exit "${@: -1}"
[ "$(wc -l < FOLDER/starts)" = 1 ] || exit 0
trap 'echo state is kept; exit 143' TERM
touch FOLDER/ready
while :; do sleep 0.02; done
"""


class Cluster:
    """A login node with a clone; the nodes are this machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, jaxgpt: str):
        self.folder, self.root = folder, clone(folder / "clone")
        uv = Uv(folder / "uv", jaxgpt.replace("FOLDER", str(folder)))
        monkeypatch.setenv("PATH", f"{slurm_stand_in.install(folder)}:{uv.folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_STAND_IN", str(folder))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        monkeypatch.setattr(gpu_command, "ROOT", self.root)
        (folder / "config.yaml").write_text("seed: 1\n")

    def submit(self, *arguments: str) -> int:
        return gpu_command.main(["slurm", "--config", str(self.folder / "config.yaml"), *arguments])

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        (self.root / "runs").mkdir(exist_ok=True)
        script = [f"--chdir={self.root}", str(self.root / "cloud" / "slurm.sbatch")]
        return subprocess.Popen(["sbatch", *script, *arguments], stdout=subprocess.PIPE, text=True)

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 20
        while not (self.folder / name).is_file():
            assert time.monotonic() < until, self.log
            time.sleep(0.01)

    @property
    def log(self) -> str:
        return "".join(file.read_text() for file in (self.root / "runs").glob("slurm-*.txt"))

    @property
    def starts(self) -> int:
        return (self.folder / "starts").read_text().count("start")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch, FAKE)


def test_a_process_per_gpu(cluster: Cluster) -> None:
    assert cluster.submit("--nodes", "2", "--gpus-per-node", "3", "--train.batch_size", "64", "--seed", "0") == 0
    assert json.loads((cluster.folder / "submitted").read_text()) == [
        f"--chdir={cluster.root}",
        "--nodes=2",
        "--gpus-per-node=3",
        "--ntasks-per-node=3",
        f"{cluster.root}/cloud/slurm.sbatch",
        *("--config", f"{cluster.folder}/config.yaml", "--train.batch_size", "64", "--seed", "0"),
    ]
    assert cluster.starts == 6
    assert f"{cluster.root}/.venv-cuda has" in cluster.log


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_what_ends_by_itself_is_not_started_again(cluster: Cluster, code: int) -> None:
    assert f"0 restarts, exit code {code}\n" in cluster.start(str(code)).communicate(timeout=30)[0]
    assert cluster.starts == 1


def test_a_job_whose_time_is_up_saves_and_is_queued_again(cluster: Cluster) -> None:
    job = cluster.start("wait")
    cluster.wait_for("ready")
    os.kill(int((cluster.folder / "batch").read_text()), signal.SIGUSR1)
    assert "1 restarts, exit code 0\n" in job.communicate(timeout=30)[0]
    assert cluster.log.count("state is kept") == 1
    assert "job 7 has saved, is queued again and goes on from there" in cluster.log
    assert cluster.starts == 2


def test_preempted_processes_are_queued_again(cluster: Cluster) -> None:
    """Slurm then tells the processes and not the script."""
    job = cluster.start("wait")
    cluster.wait_for("ready")
    slurm_stand_in.FOLDER = cluster.folder
    slurm_stand_in._signal_tasks()
    assert "1 restarts, exit code 0\n" in job.communicate(timeout=30)[0]


def test_a_cancelled_job_saves_and_stays_away(cluster: Cluster) -> None:
    job = cluster.start("wait")
    cluster.wait_for("ready")
    subprocess.run(["scancel", "7"], check=True)
    assert "0 restarts, exit code 143\n" in job.communicate(timeout=30)[0]
    assert cluster.log.count("state is kept") == 1
    assert cluster.starts == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "0"], "--nodes is 0; give 1 or more"),
        (["--gpus-per-node", "-1"], "--gpus-per-node is -1; give 1 or more"),
        (["--config", "none.yaml"], "--config none.yaml is no file; give a YAML file"),
        (["--log.wandb.api_key=abc"], "--log.wandb.api_key looks like a secret, which a command line shows"),
    ],
)
def test_wrong_arguments(
    cluster: Cluster, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.submit(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not (cluster.folder / "submitted").exists()


def test_without_slurm(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.submit() == 2
    assert "sbatch is not installed here; give the command on a login node" in capsys.readouterr().err


STEPS = 4


def _free_job() -> int:
    """A job's number; JAX derives the port from it, which has to be free."""
    for job in range(os.getpid() % 4096, 1 << 20):
        try:
            socket.create_server(("127.0.0.1", job % 4096 + 61440)).close()
        except OSError:
            continue
        return job
    raise AssertionError("no port is free")


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == list(range(1, STEPS + 1))
    return list(losses.values())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, monkeypatch, OURS)
    train = write_run(tmp_path, STEPS)
    monkeypatch.setenv("XLA_FLAGS", f"{XLA_FLAGS} --xla_force_host_platform_device_count=2")
    subprocess.run([sys.executable, "-m", "jaxgpt", "train", *train, str(tmp_path / "alone")], check=True)

    monkeypatch.setenv("XLA_FLAGS", f"{XLA_FLAGS} --xla_force_host_platform_device_count=1")
    monkeypatch.setenv("STAND_IN_JOB", str(_free_job()))
    assert cluster.submit("--nodes", "2", "--gpus-per-node", "1", "--output", "run") == 0
    assert "host 1 of 2" in cluster.log
    assert _losses(cluster.root / "run") == pytest.approx(_losses(tmp_path / "alone"), rel=1e-5)
