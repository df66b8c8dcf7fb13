"""Chains of commands that a user would type, one after the other: what `jaxgpt demo` and `jaxgpt experiment` run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent


def run_step(command: list[str]) -> dict[str, Any]:
    """Runs a command of ours under the present interpreter and shows it; its last line is JSON.

    command: without the interpreter: -m jaxgpt NAME …, or a script. Leaves with its exit code where that is not 0.
    """
    shown = ["jaxgpt", *command[2:]] if command[:2] == ["-m", "jaxgpt"] else ["python", *command]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    process = subprocess.Popen([sys.executable, *command, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if last:
            print(last, end="", flush=True)
        last = line
    if process.wait():
        if last:
            print(last, end="", flush=True)
        raise SystemExit(process.returncode)
    return json.loads(last)


def make_tfrecords() -> str:
    """The script that makes pages, as a user standing here would type it."""
    path = REPOSITORY / "data_prep" / "make_tfrecords.py"
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
