"""cloud/gpu slurm and cloud/slurm.sbatch: processes that meet, and what becomes of a job that has to stop."""

import fcntl
import json
import os
import re
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
# One that is told to stop at once, ten times, and counts a step between where FOLDER/moves is 1.
STOPPED = """#!/bin/bash
[ "$*" = --version ] && exec echo jaxgpt
echo start >> FOLDER/starts
[ "$(wc -l < FOLDER/starts)" -lt 10 ] || exit 0
if [ -e FOLDER/step ]; then
    echo "runs/x: saved at step $(cat FOLDER/step); the same command goes on from there"
    echo $(( $(cat FOLDER/step) + $(cat FOLDER/moves) )) > FOLDER/step
fi
exit 143
"""
SCRIPT = Path(__file__).parents[2] / "cloud" / "slurm.sbatch"


class Cluster:
    """A login node with a clone; the nodes are this machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, jaxgpt: str):
        self.folder, self.root = folder, clone(folder / "clone")
        self.uv = Uv(folder / "uv", jaxgpt.replace("FOLDER", str(folder)))
        monkeypatch.setenv("PATH", f"{slurm_stand_in.install(folder)}:{self.uv.folder / 'bin'}:{os.environ['PATH']}")
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

    def tell(self, number: int) -> None:
        """The batch script, as its time is up or scancel --batch does."""
        os.kill(int((self.folder / "batch").read_text()), number)

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 20
        while not (self.folder / name).is_file():
            assert time.monotonic() < until, self.log
            time.sleep(0.01)

    def wait_for_log(self, text: str) -> None:
        until = time.monotonic() + 20
        while text not in self.log:
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
    cluster.tell(signal.SIGUSR1)
    assert "1 restarts, exit code 0\n" in job.communicate(timeout=30)[0]
    assert cluster.log.count("state is kept") == 1
    assert "job 7 is queued again and goes on from there" in cluster.log
    assert cluster.starts == 2


def test_a_job_that_is_told_to_end_saves_and_stays_away(cluster: Cluster) -> None:
    """By scancel --signal=TERM --batch, which tells the processes nothing."""
    job = cluster.start("wait")
    cluster.wait_for("ready")
    cluster.tell(signal.SIGTERM)
    assert "0 restarts, exit code 143\n" in job.communicate(timeout=30)[0]
    assert cluster.log.count("state is kept") == 1
    assert cluster.starts == 1


def test_scancel_that_fails_costs_nothing(cluster: Cluster) -> None:
    """As where the processes have left already."""
    (cluster.folder / "slurm" / "scancel").write_text("#!/bin/sh\necho no such step >&2\nexit 1\n")
    job = cluster.start("wait")
    cluster.wait_for("ready")
    cluster.tell(signal.SIGUSR1)
    cluster.wait_for_log("no process could be told to save")
    slurm_stand_in.FOLDER = cluster.folder
    slurm_stand_in._signal_tasks()
    assert "1 restarts, exit code 0\n" in job.communicate(timeout=30)[0]


@pytest.mark.parametrize(("number", "restarts"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)])
def test_a_job_that_has_to_stop_while_it_installs(cluster: Cluster, number: int, restarts: int) -> None:
    cluster.uv.wait()
    job = cluster.start("0")
    cluster.wait_for_log("installing requirements-gpu.txt")
    cluster.tell(number)
    if restarts:
        cluster.wait_for_log("job 7 is queued again and goes on from there (nothing was saved yet)")
    cluster.uv.go()
    assert f"{restarts} restarts, exit code {0 if restarts else 143}\n" in job.communicate(timeout=30)[0]
    assert (cluster.folder / "starts").exists() == (restarts == 1)


@pytest.mark.parametrize(("step", "moves"), [("", False), ("12", False), ("12", True)])
def test_a_job_without_time_for_a_step_is_not_queued_for_ever(cluster: Cluster, step: str, moves: bool) -> None:
    """Its processes are told to stop as soon as they have started; `moves`: after a step at least."""
    (cluster.folder / "uv" / "jaxgpt").write_text(STOPPED.replace("FOLDER", str(cluster.folder)))
    (cluster.folder / "moves").write_text("1" if moves else "0")
    if step:
        (cluster.folder / "step").write_text(step)
    out = cluster.start("config").communicate(timeout=60)[0]
    said = "saved at step 12" if step else "nothing was saved yet"
    if moves:
        assert "9 restarts, exit code 0\n" in out
        assert "saved at step 15" in cluster.log
    else:
        assert "5 restarts, exit code 1\n" in out
        assert f"error: job 7 was queued again 5 times without a step ({said}); give it more time" in cluster.log


def test_packages_stay_while_a_job_trains(cluster: Cluster) -> None:
    job = cluster.start("wait")
    cluster.wait_for("ready")
    with Path(f"{cluster.root}/.venv-cuda.lock").open("r+") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another job with the same packages
    cluster.tell(signal.SIGTERM)
    job.communicate(timeout=30)
    with Path(f"{cluster.root}/.venv-cuda.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_its_head_says_to_type(cluster: Cluster) -> None:
    """The folder of the log is there before Slurm wants to write it."""
    lines = [line.removeprefix("#").strip() for line in SCRIPT.read_text().splitlines() if line.startswith("#  ")]
    folder, submit = lines
    (output,) = re.findall(r"^#SBATCH --output=(.*)/", SCRIPT.read_text(), re.MULTILINE)
    assert folder == f"mkdir -p {output}"
    assert submit.startswith("sbatch ")


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
    assert "error" not in cluster.log
    assert "no process" not in cluster.log
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
