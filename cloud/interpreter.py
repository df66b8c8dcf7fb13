"""A Python for the parts of the project that need more than Python's own library."""

import importlib.util
import sys

from cloud.source import ROOT


def python_that_has(package: str) -> str | None:
    """That of `make .venv`, once it is through, else the one that this runs in; None where neither has the package."""
    own = ROOT / ".venv"
    if (own / "installed").is_file():
        return str(own / "bin" / "python")
    return sys.executable if importlib.util.find_spec(package) else None
