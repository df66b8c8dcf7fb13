"""A launch's options, checked here before many hosts refuse them."""

import os
import re
import subprocess
from pathlib import Path

from cloud.errors import CloudError
from cloud.interpreter import python_that_has
from cloud.launch import Launch
from cloud.settings import Settings
from cloud.source import ROOT


def check_options(settings: Settings, config: Path, launch: Launch) -> None:
    """CloudError where `jaxgpt train` does not take them, or they ask for more cores or hosts than the slice has."""
    python = python_that_has("jsonargparse")
    if python is None:
        print("the options are checked on the hosts only, as jaxgpt is not installed here (make .venv)", flush=True)
        return
    command = [python, "-m", "jaxgpt", "train", "--config", str(config), "--output", "runs/checked", *launch.arguments]
    done = subprocess.run(
        [*command, "--print_config"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        said = done.stderr.strip() or "it did not say why"
        raise CloudError(f"{config}: {said.splitlines()[-1].removeprefix('error: ')}")
    slice_ = settings.slice
    batch_size = _number(done.stdout, "train", "batch_size")
    if batch_size is not None and batch_size % slice_.n_devices:
        up = -(-batch_size // slice_.n_devices) * slice_.n_devices
        raise CloudError(
            f"train.batch_size is {batch_size}, but {slice_.name} has {slice_.n_devices} devices, which share it "
            f"evenly; give --train.batch_size {up}, or another TYPE"
        )
    processes = _number(done.stdout, "parallel", "num_processes")
    if processes is not None and processes != slice_.n_hosts:
        raise CloudError(
            f"parallel.num_processes is {processes}, but {slice_.name} has {slice_.n_hosts} hosts; leave it out, since "
            "hosts of a slice find each other"
        )


def _number(text: str, section: str, name: str) -> int | None:
    """Of the configuration as `--print_config` writes it; None where it is null."""
    found = re.search(rf"^{section}:\n(?:  .*\n)*?  {name}: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None
