"""Slurm for tests, on this machine: sbatch, srun, scancel and scontrol as cloud/slurm.sbatch uses them.

Run by one of these names. What they know is in the folder SLURM_STAND_IN: submitted (sbatch's arguments), batch (the
process of the batch script), tasks (those that it started), requeued (there where that was asked for). As Slurm 22.05
did in a trial: srun does not pass SIGTERM on but kills; scancel --signal reaches the processes alone, and without it
the batch script as well.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ.get("SLURM_STAND_IN", "."))
NAMES = ("sbatch", "srun", "scancel", "scontrol")


def install(folder: Path) -> Path:
    """The folder of programs that a test puts on PATH."""
    programs = folder / "slurm"
    programs.mkdir()
    for name in NAMES:
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" {name} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


def sbatch(arguments: list[str]) -> int:
    """Runs the job, again while it is requeued, and then says what the real one says at once."""
    (FOLDER / "submitted").write_text(json.dumps(arguments))
    at = next(at for at, argument in enumerate(arguments) if not argument.startswith("--"))
    script, rest = Path(arguments[at]), arguments[at + 1 :]
    given = re.findall(r"^#SBATCH (--\S+)$", script.read_text(), re.MULTILINE) + arguments[:at]
    options = dict(one.removeprefix("--").partition("=")[::2] for one in given)
    tasks = int(options.get("nodes", 1)) * int(options.get("ntasks-per-node", 1))
    job = os.environ.get("STAND_IN_JOB", "7")
    environment = {
        **os.environ,
        "SLURM_JOB_ID": job,
        "SLURM_NTASKS": str(tasks),
        "SLURM_CPUS_PER_TASK": options.get("cpus-per-task", "1"),
    }
    folder = Path(options.get("chdir", "."))
    restarts = 0
    while True:
        (FOLDER / "requeued").unlink(missing_ok=True)
        with (folder / options["output"].replace("%j", job)).open("a") as log:
            spooled = FOLDER / "slurm_script"  # as Slurm runs a copy of the script
            spooled.write_text(script.read_text())
            spooled.chmod(0o755)
            environment["SLURM_RESTART_COUNT"] = str(restarts)
            process = subprocess.Popen([str(spooled), *rest], cwd=folder, env=environment, stdout=log, stderr=log)
            (FOLDER / "batch").write_text(str(process.pid))
            code = process.wait()
        if not (FOLDER / "requeued").is_file():
            print(f"Submitted batch job {job}, {restarts} restarts, exit code {code}")
            return 0
        restarts += 1


def srun(arguments: list[str]) -> int:
    """Starts the job's processes with what JAX looks for, and ends with the highest exit code."""
    at = next(at for at, argument in enumerate(arguments) if not argument.startswith("--"))
    assert arguments[:at] == ["--kill-on-bad-exit=0", f"--cpus-per-task={os.environ['SLURM_CPUS_PER_TASK']}"]
    count = int(os.environ["SLURM_NTASKS"])
    tasks = []
    for index in range(count):
        own = {"SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
        tasks.append(subprocess.Popen(arguments[at:], env={**os.environ, **own}))
    (FOLDER / "tasks").write_text(" ".join(str(task.pid) for task in tasks))

    def kill(number: int, frame: object) -> None:
        for task in tasks:
            task.kill()

    signal.signal(signal.SIGTERM, kill)
    codes = [task.wait() for task in tasks]
    return max(128 - code if code < 0 else code for code in codes)


def _signal_tasks() -> None:
    for pid in (FOLDER / "tasks").read_text().split():
        os.kill(int(pid), signal.SIGTERM)


def scancel(arguments: list[str]) -> int:
    *options, job = arguments
    assert job == os.environ.get("SLURM_JOB_ID", job)
    _signal_tasks()
    if options != ["--signal=TERM"]:
        os.kill(int((FOLDER / "batch").read_text()), signal.SIGTERM)
    return 0


def scontrol(arguments: list[str]) -> int:
    assert arguments == ["requeue", os.environ["SLURM_JOB_ID"]]
    (FOLDER / "requeued").touch()
    time.sleep(0.2)  # then the job would be killed
    return 0


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scancel": scancel, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
