"""`jaxgpt chat`: one exchange as JSON, and what it refuses before it reads any weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_bots import POSITIONS, make_folder

from jaxgpt import cli
from jaxgpt.chat.streaming import printable
from jaxgpt.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bots")
    return {name: make_folder(root / name, name) for name in ("tags", "sep")}


def chat(folder: Path, *options: str) -> None:
    cli.chat(["--model", str(folder), "--max_new_tokens", "5", "--seed", "1", *options])


def test_one_answer_as_json(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    replies = set()
    for options in ([], ["--history.turns", "1", "--top_k", "0"], ["--candidates", "3"], ["--temperature", "0"]):
        chat(folders["tags"], "--prompt", "hello", "--json", *options)
        lines = capsys.readouterr().out.split("\n")
        exchange = json.loads(lines[-2])
        assert exchange["prompt"] == "hello"
        assert printable(exchange["reply"]) == "\n".join(lines[:-2])
        replies.add(exchange["reply"])
    assert len(replies) == 3  # the first two are the same


def test_the_command_refuses_in_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    tags, nothing = folders["tags"], tmp_path / "nothing"
    (tmp_path / "thesis.txt").write_text("years of work\n")
    for options, message in [
        (["--prompt", " "], "--prompt is empty"),
        (["--names", "Anna"], "--names is 'Anna'; it must be two names"),
        (["--candidates", "0"], "--candidates is 0"),
        (["--candidates", "2", "--temperature", "0"], "are drawn by chance, but --temperature is 0"),
        (["--candidates", "2", "--num_beams", "2"], "num_beams 2"),
        (["--reverse_model", str(tags)], "--reverse_model chooses among candidates, but --candidates is 1"),
        (["--candidates", "2", "--reverse_model", str(folders["sep"])], "--reverse_model has dialogue_format sep"),
        (["--transcript", str(tmp_path / "thesis.txt")], "line 1 is no conversation"),
        (["--max_new_tokens", str(POSITIONS)], f"--max_new_tokens {POSITIONS} leaves no room"),
        (["--history.turnz", "1"], "did you mean history.turns?"),
        (["--engine", "tensorflow"], "engine"),
    ]:
        with pytest.raises(UserError) as caught:
            chat(tags, *options)
        assert message in str(caught.value)
    for options, message in [
        (["--candidates", "0"], "--candidates is 0; it must be 1 or more"),
        (["--reverse_model", str(tags)], "--candidates is 1"),
    ]:
        with pytest.raises(UserError) as caught:  # before anything is said of the model
            chat(nothing, *options)
        assert message in str(caught.value)
    assert (tmp_path / "thesis.txt").read_text() == "years of work\n"


def test_what_needs_no_weights_is_refused_before_they_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders["tags"], broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-4:] = np.float32(np.nan).tobytes()
    (broken / "model.safetensors").write_bytes(weights)
    for options, message in [
        ([], "numbers that are not finite"),
        (["--candidates", "2", "--temperature", "0"], "are drawn by chance, but --temperature is 0"),
        (["--candidates", "2", "--num_beams", "2"], "num_beams 2"),
        (["--max_new_tokens", str(POSITIONS)], f"--max_new_tokens {POSITIONS} leaves no room"),
        (["--candidates", "2", "--reverse_model", str(tmp_path / "nothing")], "nothing is no folder"),
    ]:
        with pytest.raises(UserError) as caught:
            chat(broken, *options)
        assert message in str(caught.value)
