"""What the bot needs of a model, whichever framework computes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from jaxgpt.chat.decoding import Decoding
from jaxgpt.data.dialogue import FORMATS, DialogueFormat, EncodedConversation
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.source import check_vocabulary, open_source, source_tokenizer
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.run import holds_run

EngineKind = Literal["torch", "jax"]
USER, BOT = 0, 1  # roles; whoever opens the conversation is role 0


@dataclass(frozen=True)
class Limits:
    """Where one reply begins and ends.

    max_new_tokens: it ends there at the latest; the prompt leaves room for them in n_positions
    stop_ids: it ends when its newest ids are these; the tokenizer's end-of-text ends it as well
    not_first: ids that it can't begin with
    draw: numbers that tell this reply's draws from others of the same seed
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    not_first: tuple[int, ...] = ()
    draw: tuple[int, ...] = ()

    def end(self, ids: list[int], eos_token_id: int) -> bool:
        """Whether a reply of these ids is complete."""
        stop = list(self.stop_ids)
        return len(ids) >= self.max_new_tokens or ids[-1:] == [eos_token_id] or ids[-len(stop) :] == stop


def draw_seed(decoding: Decoding, limits: Limits) -> int:
    """Seed in [0, 2**63) of one reply's draws: of decoding.seed and limits.draw, or fresh where there is no seed."""
    entropy = None if decoding.seed is None else [decoding.seed, *limits.draw]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Reader(Protocol):
    """A model that says how likely conversations are."""

    @property
    def cfg(self) -> ModelConfig: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def format(self) -> DialogueFormat: ...

    def mean_log_likelihood(self, conversations: list[EncodedConversation]) -> list[float]:
        """Of each conversation's ids with weight above 0, given all ids before them: nats per token, weights as given.

        The mean is weighted: sum of weight * log p over sum of weights. No decoding filter is applied. Lengths may
        differ, none is above n_positions, and each has a weight above 0 somewhere after position 0.
        """
        ...


class Engine(Reader, Protocol):
    """A model that continues conversations as well. Every token of a reply carries the role BOT.

    What a call returns depends on its arguments alone, never on the calls before it.
    """

    def stream(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> Iterator[int]:
        """Ids of one reply as they are drawn, those that end it included. Closing the iterator stops the work.

        With beams all of them come at once.
        """
        ...

    def draw(self, prompt: EncodedConversation, n: int, decoding: Decoding, limits: Limits) -> list[list[int]]:
        """Ids of n replies drawn in one batch, those that end them included. `decoding.draws` must be true."""
        ...


def open_engine(kind: EngineKind, folder: Path) -> Engine:
    """The model of an exported folder. UserError where it is none, or one of no conversations."""
    if kind == "jax":
        from jaxgpt.chat.jax_engine import JaxEngine

        return JaxEngine(folder)
    from jaxgpt.chat.torch_engine import TorchEngine

    return TorchEngine(folder)


@dataclass(frozen=True)
class Described:
    """An exported folder without its weights. config: of config.json; is_stock: whether transformers can load it."""

    cfg: ModelConfig
    tokenizer: Tokenizer
    format: DialogueFormat
    config: dict[str, Any]
    is_stock: bool


def describe(folder: Path) -> Described:
    """Names and shapes of all weights are checked, their values are not read.

    UserError where the folder is a run or not whole, or its model was not trained on conversations.
    """
    if holds_run(folder):
        raise UserError(f"{folder} is a run; export it first: jaxgpt export {folder} --output {folder}/hf")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; the bot talks with a folder that `jaxgpt export` made")
    source = open_source(str(folder))
    name = source.content.get("dialogue_format")
    if name not in tuple(FORMATS):
        raise UserError(
            f"{folder}/config.json: dialogue_format is {name!r}, the bot knows {', '.join(FORMATS)}; train on pages of "
            f"conversations and export that run, or say what the model knows: jaxgpt import {folder} --format eos "
            "--output DIR, and export DIR"
        )
    tokenizer = source_tokenizer(source)
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer; export the run again")
    check_vocabulary(str(folder), source, tokenizer)
    return Described(source.cfg, tokenizer, FORMATS[name], source.content, source.is_stock)
