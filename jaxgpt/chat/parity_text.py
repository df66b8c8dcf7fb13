"""What a parity report is measured on: a run's validation split, or some prose where that is not at hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgpt.chat.provenance import provenance
from jaxgpt.data.loader import Pages
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig

# The logits of all of them are in memory at the same time.
_SEQUENCES = 4
_TOKENS = 256
_ROWS = 16  # of a split, to take the longest sequences from

PROSE = """\
The ferry left an hour late, because the man who sold the tickets had gone home to look for his glasses. Nobody \
minded. There were seven of us on the quay, a dog, and a crate of lemons that was addressed to a hotel which had \
closed the year before. "It will open again," said the woman who guarded the lemons. "They always open again when \
summer comes."

When the engine finally started, a boy counted aloud how long the smoke took to reach the lighthouse. He came to \
forty-one. His sister said that he had cheated between twenty and thirty, and so he began once more, slower this \
time, while the harbour grew small behind us: first the people, then the windows, then the white line of the wall. \
The wind turned cold. Somebody handed round coffee in the lids of three thermos flasks, and we spoke about the usual \
things, that is to say about the price of fish, about the bridge that was promised in 1974, and about those who had \
moved to the city and were sorry for it, or at least said so in their letters.

I asked the captain whether he had ever been afraid out here. He thought about it for a while. "Once," he answered, \
"but that was on land. I had to give a speech at my daughter's wedding. I had written four pages, and when I stood up \
I could not read a single word of them." He laughed and wiped the glass of the compass with his sleeve. "So I told \
them about a storm instead. They liked it. There had never been such a storm."

By evening the island lay ahead, flat and grey, with one lamp burning at its northern end. The boy had fallen asleep \
on the crate. The dog watched over both of them, and over the lemons."""


@dataclass(frozen=True)
class Sample:
    """Sequences of (ids, roles), each of at least two tokens, and a name for them."""

    sequences: tuple[tuple[np.ndarray, np.ndarray], ...]
    what: str

    @property
    def longest(self) -> int:
        return max(len(ids) for ids, _ in self.sequences)


def sample_of(folder: Path, cfg: ModelConfig, tokenizer: Tokenizer | None, step: int | None) -> Sample:
    """From the validation split of the run in `folder` at `step`, where its pages are still those; else prose."""
    origin = provenance(folder, step)
    if origin is None or origin.manifest is None:
        return prose(cfg, tokenizer)
    pages, split = Path(origin.config["data"]["path"]), origin.config["data"]["valid_split"]
    try:
        sequences = longest(conversations(Pages(pages, split)), cfg.n_positions)
    except UserError as error:  # no reason to keep a model back; the report says what was read instead
        instead = prose(cfg, tokenizer)
        return Sample(instead.sequences, f"{instead.what}, because {error}")
    if not sequences:
        return prose(cfg, tokenizer)
    return Sample(sequences, f"{len(sequences)} sequences of {pages}, split {split}")


def longest(
    sequences: Iterator[tuple[np.ndarray, np.ndarray]], n_positions: int
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    by_length = sorted((pair for pair in sequences if len(pair[0]) > 1), key=lambda pair: -len(pair[0]))
    stop = min(_TOKENS, n_positions)
    return tuple((ids[:stop], roles[:stop]) for ids, roles in by_length[:_SEQUENCES])


def conversations(pages: Pages) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Unpacked sequences (ids, roles) from the first rows of a split."""
    batch = pages.in_order(0, min(_ROWS, pages.n_rows(shuffled=False)))
    for row, ids in enumerate(batch["input_ids"]):
        if "segments" not in batch:
            ids = ids[batch["weights"][row] > 0]
            yield ids, np.zeros(len(ids), np.int32)
            continue
        for segment in range(1, int(batch["segments"][row].max()) + 1):
            here = batch["segments"][row] == segment
            yield ids[here], batch["roles"][row][here]


def prose(cfg: ModelConfig, tokenizer: Tokenizer | None) -> Sample:
    """Prose in the model's tokens, its paragraphs told by two speakers; random ids where it has no such tokens."""
    rng = np.random.default_rng(0)
    length = min(_TOKENS, cfg.n_positions)
    paragraphs = [tokenizer.encode(text) for text in PROSE.split("\n\n")] if tokenizer else []
    ids = np.array([token for paragraph in paragraphs for token in paragraph], np.int32)
    roles = np.repeat(np.arange(len(paragraphs), dtype=np.int32) % 2, [len(paragraph) for paragraph in paragraphs])
    what = "a page of prose, since no pages of the model's training are at hand"
    if len(ids) < 2 or ids.max() >= cfg.vocab_size:
        ids = rng.integers(0, cfg.vocab_size, _SEQUENCES * length, dtype=np.int32)
        roles = rng.integers(0, 2, len(ids), dtype=np.int32)
        what = "random ids, since there is no tokenizer that fits the model"
    starts = range(0, min(len(ids) - 1, _SEQUENCES * length), length)
    sequences = tuple((ids[start : start + length], roles[start : start + length]) for start in starts)
    return Sample(tuple(pair for pair in sequences if len(pair[0]) > 1), what)
