"""Packages that evaluation needs are missed by name, without being imported."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxgpt.commands import comparing
from jaxgpt.commands.experimenting import experiment
from jaxgpt.commands.replies import replies
from jaxgpt.errors import UserError
from jaxgpt.evaluate import packages
from jaxgpt.evaluate.packages import check_packages

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def test_the_missing_package_and_the_way_out_are_named() -> None:
    with pytest.raises(UserError) as error:
        check_packages("jaxgpt replies", "json", "no_such_package")
    expected = 'jaxgpt replies needs no_such_package, which is not installed; pip install "jaxgpt[evaluate]"'
    assert str(error.value) == expected


def test_packages_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    check_packages("jaxgpt compare", "slow_to_import")


def test_the_extra_has_what_evaluation_imports() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    names = {requirement.partition(">")[0] for requirement in extras["evaluate"]}
    assert {"jaxgpt[data]", "sacrebleu", "nltk", "matplotlib"} <= names


@pytest.mark.parametrize(
    ("command", "arguments", "package"),
    [
        (comparing.compare, "a b --data jsonl:x --output {out}", "matplotlib"),
        (replies, "--data dstc7:x --hypotheses a=b --output {out}", "sacrebleu"),
        (experiment, "--config configs/experiments/camrest.yaml --output {out}", "sacrebleu"),
    ],
)
def test_commands_look_for_their_packages_first(
    command: Callable[[list[str]], None], arguments: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed; pip install"):
        command(arguments.format(out=tmp_path / "out").split())
    assert not (tmp_path / "out").exists()
