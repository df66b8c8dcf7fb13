"""Optional packages, looked for before hours go into what they are needed for in the end."""

from importlib.util import find_spec

from jaxgpt.checks import require


def check_packages(what: str, *packages: str) -> None:
    """packages: as they are imported, which is not done here. UserError names `what` and the first that is missing."""
    for package in packages:
        require(
            find_spec(package) is not None,
            f'{what} needs {package}, which is not installed; pip install "jaxgpt[evaluate]"',
        )
