"""A folder that is no whole bot is refused in one sentence that says what is wrong with it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_bots import make_folder, small_tokenizer

from jaxgpt.chat.engine import EngineKind, open_engine
from jaxgpt.errors import UserError

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("whole"), "tags")


@pytest.fixture
def bot(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "bot")


def configured(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def with_other_tokenizer(folder: Path) -> None:
    small_tokenizer("<more>", "<and more>").save(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (configured(dialogue_format=None), "dialogue_format is None, the bot knows eos, tags, sep"),
        (configured(dialogue_format="irc"), "dialogue_format is 'irc', the bot knows eos, tags, sep"),
        (configured(dialogue_format=["eos"]), "dialogue_format is ['eos'], the bot knows eos, tags, sep"),
        (lambda bot: (bot / "config.json").rename(bot / "config.yaml"), "is a run; export it first: jaxgpt export"),
        (shutil.rmtree, "is no folder; the bot talks with a folder that `jaxgpt export` made"),
        (cut_off, f"{WEIGHTS} is damaged"),
        (lambda bot: (bot / WEIGHTS).unlink(), f"must hold weights as {WEIGHTS}"),
        (configured(n_layer=4), "lacks 12 tensors: transformer.h.3."),
        (configured(n_layer=2), "has beside a GPT-2's 12 tensors: transformer.h.2."),
        (configured(n_inner=73), "transformer.h.0.mlp.c_fc.weight has shape (30, 71), "),
        (lambda bot: (bot / "tokenizer.json").unlink(), "has no tokenizer"),
        (with_other_tokenizer, "has a vocabulary of 307 ids, its tokenizer "),
    ],
)
def test_what_is_no_bot_is_refused(bot: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(bot)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_engine("torch", bot)
    assert str(bot) in str(caught.value)


@pytest.mark.parametrize("kind", ["torch", "jax"])
def test_numbers_that_are_not_finite_are_refused(bot: Path, kind: EngineKind) -> None:
    tensors = load_file(bot / WEIGHTS)
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = np.nan
    save_file(tensors, bot / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight .*not finite"):
        open_engine(kind, bot)
