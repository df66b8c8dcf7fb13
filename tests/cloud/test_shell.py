"""shellcheck finds nothing in the Bash of the repository."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _scripts() -> list[Path]:
    """What is run by a shell, wherever it is: tracked or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    files = [ROOT / name for name in names if (ROOT / name).is_file()] or [*ROOT.glob("cloud/*"), ROOT / ".ci" / "run"]
    return [file for file in files if file.is_file() and file.read_bytes()[:64].split(b"\n")[0].endswith(b"bash")]


def test_shellcheck_is_silent() -> None:
    scripts = _scripts()
    known = {ROOT / name for name in (".ci/run", "cloud/install.sh", "cloud/slurm.sbatch")}
    assert known <= set(scripts)
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
