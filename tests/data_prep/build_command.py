"""make_tfrecords.py as a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(source, output, *options):
    return [
        sys.executable,
        str(Path("data_prep") / "make_tfrecords.py"),
        *("--source", source, "--output", str(output), "--processes", "2", *options),
    ]


def run(source, output, *options, **settings):
    return subprocess.run(command(source, output, *options), cwd=ROOT, capture_output=True, text=True, **settings)


def assert_user_mistake(done, *parts):
    """Exit code 2 and one sentence, after the progress bar if there was one."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line and not line.startswith("pages:")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    for part in parts:
        assert part in errors[0]
