"""cloud/ runs where nothing was installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pythons_own_library_is_enough() -> None:
    modules = "cloud.tpu_command, cloud.bucket_command, cloud.gpu_command"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
