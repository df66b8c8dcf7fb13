"""The arrows of docs/architecture.md: a room imports only rooms to its left, and frameworks only where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
BELOW = (
    "jaxgpt.backend",
    "jaxgpt.caches",
    "jaxgpt.checks",
    "jaxgpt.config",
    "jaxgpt.model_config",
    "jaxgpt.optimizer_config",
    "jaxgpt.errors",
    "jaxgpt.progress",
    "jaxgpt.valid_json",
)
ROOMS = ["data", "model", "decode", "train", "evaluate", "chat", "plan", "doctor"]
FILES = sorted(
    path.relative_to(REPOSITORY) for folder in ("jaxgpt", "data_prep") for path in (REPOSITORY / folder).rglob("*.py")
)
HEAVY = {
    "jax",
    "flax",
    "optax",
    "orbax",
    "torch",
    "transformers",
    "tensorflow",
    "tensorflow_datasets",
    "wandb",
    "grain",
    "gcsfs",
    "apache_beam",
    "datasets",
    "gigatoken",
    "pyarrow",
    "rensa",
    "ftfy",
    "gradio",
    "fastapi",
    "uvicorn",
    "playwright",
    "matplotlib",
    "nltk",
    "sacrebleu",
    "libtpu",
}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports, also within functions unless told otherwise."""
    tree = ast.parse((REPOSITORY / path).read_text())
    nodes = ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    ours = {name for name in imports(path) if name.startswith(("jaxgpt", "data_prep"))}
    if path.parts[0] == "data_prep":
        allowed = ("data_prep", "jaxgpt.data", "jaxgpt.command", "jaxgpt.errors", "jaxgpt.progress")
    elif len(path.parts) == 3 and path.parts[1] == "commands":
        allowed = ("jaxgpt",)
    elif len(path.parts) == 3 and path.parts[1] == "experiments":  # chains of commands, from raw data to a table
        allowed = ("jaxgpt", "data_prep")
    elif len(path.parts) >= 3:
        rooms = ROOMS[: ROOMS.index(path.parts[1]) + 1]
        allowed = (*BELOW, *(f"jaxgpt.{room}" for room in rooms))
        if path.parts[1] == "evaluate":  # a model is measured on whatever pages can be made of
            allowed = (*allowed, "data_prep.sources")
    elif path.with_suffix("").as_posix().replace("/", ".") in (*BELOW, "jaxgpt.command"):
        allowed = BELOW
    else:
        allowed = ("jaxgpt",)
    wrong = [name for name in ours if not name.startswith(allowed)]
    assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_frameworks_are_imported_late_or_in_their_rooms(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    if path.parts[:2] == ("jaxgpt", "chat"):
        allowed = {"jax", "torch", "transformers"}
    elif path.parts[:2] in {("jaxgpt", room) for room in ("model", "decode", "train", "evaluate", "plan")}:
        allowed = {"jax", "flax", "optax", "orbax"}
    else:
        allowed = set()
    assert top <= allowed, f"{path} imports {top - allowed} at the top"


def test_only_records_knows_bytes() -> None:
    using = [path for path in FILES if any(name.split(".")[0] == "google_crc32c" for name in imports(path))]
    assert [str(path) for path in using] == ["jaxgpt/data/records.py"]


def test_the_command_line_starts_without_frameworks() -> None:
    code = f"import sys, jaxgpt.cli; print([m for m in sys.modules if m.split('.')[0] in {sorted(HEAVY)}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
