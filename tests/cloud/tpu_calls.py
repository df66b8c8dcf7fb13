"""`cloud/tpu` as tests call it, and what it shows."""

import re
import time
from pathlib import Path

import pytest
from gcloud_stand_in import World

from cloud import tpu_command

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "gpt2_small.yaml")
ENDED = {"killed", "failed (143)"}  # of what had no time to save, or just so much


def tpu(*arguments: str) -> int:
    return tpu_command.main(list(arguments))


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Of the last table, by cells."""
    lines = capsys.readouterr().out.splitlines()
    begin = max(number for number, line in enumerate(lines) if line.startswith("host  reachable"))
    return [re.split(r"  +", line) for line in lines[begin + 1 :]]


def wait_for_exit(world: World, *workers: int) -> None:
    until = time.monotonic() + 10
    while any(world.host_state(worker)["exit"] is None for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
