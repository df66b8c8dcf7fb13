"""A Python for the parts of the project that need more than Python's own library."""

import importlib.util
import os
import sys

from cloud.source import ROOT


def python_that_has(package: str) -> str | None:
    """The clone's own, made by `make .venv`, else the one that this runs in; None where neither has the package."""
    own = ROOT / ".venv" / "bin" / "python"
    if os.access(own, os.X_OK):
        return str(own)
    return sys.executable if importlib.util.find_spec(package) else None
