"""`cloud/gpu build`, `run` and `slurm`."""

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cloud import command
from cloud.errors import CloudError
from cloud.gpu_mounts import CREDENTIALS, cache_folder, key_file, require_seen, training_mounts
from cloud.passed_on import PASSED_ON, refuse_secrets
from cloud.source import ROOT

_IMAGE = "jaxgpt:cuda"
_STOP_SECONDS = 600  # that a training has for its last checkpoint
# What docker says -> what that means. {image}: the one that was to run.
_EXPLAINED = (
    (r"permission denied .*docker", "your account may not use Docker; sudo usermod -aG docker $USER, and log in again"),
    (r"(Cannot|failed to) connect to the [Dd]ocker", "Docker does not run here; sudo systemctl start docker"),
    (r"No such image", "there is no image {image}; cloud/gpu build makes it"),
    (
        r"could not select device driver|nvidia-container|known GPU vendor|CDI device",
        "Docker can't give GPUs to a container; install NVIDIA's driver, 580 or newer, and its Container Toolkit: "
        "docs.nvidia.com/datacenter/cloud-native/container-toolkit",
    ),
)


def main(arguments: list[str]) -> int:
    parser = command.make_parser("cloud/gpu", "Training on NVIDIA GPUs, in Docker or under Slurm.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = command.add_command(commands, "build", build)
    one.add_argument("--tag", default=_IMAGE, help="name of the image (default: %(default)s)")

    one = command.add_command(commands, "run", run, takes_options=True)
    one.add_argument("--config", type=Path, required=True, help="YAML file of the training")
    one.add_argument("--tag", default=_IMAGE, help="name of the image (default: %(default)s)")
    one.add_argument("--gpus", default="all", help="how many, or device=0,2 (default: %(default)s)")
    one.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="HERE:THERE",
        help="another folder for the container",
    )

    one = command.add_command(commands, "slurm", slurm, takes_options=True)
    one.add_argument("--config", type=Path, required=True, help="YAML file of the training")
    one.add_argument("--nodes", type=int, default=1, help="machines (default: %(default)s)")
    one.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of each (default: %(default)s)")
    return command.main(parser, arguments)


def build(args: argparse.Namespace) -> None:
    """Build the image: CUDA's jaxlib, the pinned packages and this clone's code."""
    _ask_docker(["docker", "version"], args.tag, args.dry_run)
    _do(["docker", "build", "--file", "cloud/Dockerfile", "--tag", args.tag, "."], args.dry_run)


def run(args: argparse.Namespace) -> None:
    """Train in a container on this machine's GPUs; other options are those of `jaxgpt train`.

    It sees runs/ and data/ of this clone and the cache of your account, and writes as you.
    """
    config = _config(args.config)
    refuse_secrets(args.options)
    key = key_file()
    mounts = training_mounts(ROOT, config, key, args.volume)
    require_seen(args.options, config, mounts)
    gpus = f'"{args.gpus}"' if "," in args.gpus else args.gpus  # docker takes it for a line of CSV
    start = ["docker", "run", "--rm", "--pull=never", f"--gpus={gpus}"]
    passed_on = [*PASSED_ON, *[f"{CREDENTIALS}=/credentials.json"] * (key is not None)]
    full = [
        *start,
        "--init",  # so that SIGTERM and Ctrl-C reach the training
        f"--stop-timeout={_STOP_SECONDS}",
        "--ipc=host",  # NCCL's shared memory
        f"--user={os.getuid()}:{os.getgid()}",
        *(f"--volume={mount}" for mount in mounts),
        *(f"--env={name}" for name in passed_on),  # names without values: docker takes those from its environment
        args.tag,
        *("train", "--config", "config.yaml", *args.options),
    ]
    _ask_docker([*start, args.tag, "--version"], args.tag, args.dry_run)
    if not args.dry_run:
        for folder in (ROOT / "runs", ROOT / "data", cache_folder()):  # docker would make them as root
            folder.mkdir(parents=True, exist_ok=True)
    _become(full, args.dry_run)


def slurm(args: argparse.Namespace) -> None:
    """Submit a training to Slurm, a process per GPU; other options are those of `jaxgpt train`.

    Partition, account and time are given by sbatch's own SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_TIMELIMIT.
    """
    config = _config(args.config)
    refuse_secrets(args.options)
    for name, count in (("--nodes", args.nodes), ("--gpus-per-node", args.gpus_per_node)):
        if count < 1:
            raise CloudError(f"{name} is {count}; give 1 or more")
    if not args.dry_run:
        (ROOT / "runs").mkdir(exist_ok=True)  # or Slurm could not write the job's log
    gpus = [f"--gpus-per-node={args.gpus_per_node}", f"--ntasks-per-node={args.gpus_per_node}"]
    submit = ["sbatch", f"--chdir={ROOT}", f"--nodes={args.nodes}", *gpus]
    _do([*submit, str(ROOT / "cloud" / "slurm.sbatch"), "--config", str(config), *args.options], args.dry_run)


def _config(given: Path) -> Path:
    if not given.is_file():
        raise CloudError(f"--config {given} is no file; give a YAML file, as in configs/")
    return given.resolve()


def _ask_docker(command: Sequence[str], image: str, dry_run: bool) -> None:
    """CloudError where Docker would not do what comes next."""
    _show(command)
    if dry_run:
        return
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise _missing(command) from None
    if done.returncode:
        said = done.stderr.strip()
        for pattern, meaning in _EXPLAINED:
            if re.search(pattern, said):
                raise CloudError(meaning.format(image=image))
        # The reason comes first, and where to find help last.
        lines = [line for line in said.splitlines() if not line.startswith("WARNING")] or ["it did not say why"]
        raise CloudError(f"{shlex.join(command)} ended with {done.returncode}: {lines[0]}")


def _do(command: Sequence[str], dry_run: bool) -> None:
    """Runs it in the clone, and lets the user see what it says."""
    _show(command)
    if dry_run:
        return
    try:
        done = subprocess.run(command, cwd=ROOT, check=False)
    except FileNotFoundError:
        raise _missing(command) from None
    if done.returncode:
        raise CloudError(f"{command[0]} ended with {done.returncode}, as its last lines above say")


def _become(command: Sequence[str], dry_run: bool) -> None:
    """This process goes on as the command, so that signals reach it and its exit code is ours."""
    _show(command)
    if not dry_run:
        os.execvp(command[0], list(command))


def _show(command: Sequence[str]) -> None:
    print(f"$ {shlex.join(command)}", flush=True)


def _missing(command: Sequence[str]) -> CloudError:
    where = {
        "docker": "docs.docker.com/engine/install says how",
        "sbatch": "give the command on a login node of the cluster",
    }
    return CloudError(f"{command[0]} is not installed here; {where[command[0]]}")
