"""The command with every step in the test's own process."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from small_experiments import (
    CONFIGS,
    TINY,
    Run,
)

from data_prep import make_tfrecords
from jaxgpt import cli
from jaxgpt.data.verify import verify
from jaxgpt.experiments import pages, persuasion, running


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command with every step in this process, and returns its report."""

    def step(command: list[str]) -> dict[str, Any]:
        said = io.StringIO()
        with redirect_stdout(said):
            if command[:2] == ["-m", "jaxgpt"]:
                cli.COMMANDS[command[2]]([*command[3:], "--json"])
            else:
                monkeypatch.setattr(sys, "argv", [*command, "--processes", "1", "--verify=false", "--json"])
                make_tfrecords.main()
        return json.loads(said.getvalue().splitlines()[-1])

    for module in (pages, persuasion, running):
        monkeypatch.setattr(module, "run_step", step)

    def run(name: str, raw: Path, *options: str) -> dict[str, Any]:
        output = tmp_path / "out"
        config = ["--config", str(CONFIGS / f"{name}.yaml"), "--raw", str(raw), "--output", str(output)]
        cli.experiment([*config, *TINY, *options])
        verify(output / "pages")
        return json.loads((output / "report.json").read_text())

    return run
