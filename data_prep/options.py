"""What decides the bytes of the pages."""

from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.clean import Cleaning
from data_prep.sources.kinds import SourceOptions
from jaxgpt.data.dialogue import FormatName, LossOn
from jaxgpt.data.records import Kind
from jaxgpt.errors import UserError

_MOST_SHARDS = 65_535  # items are numbered by shard, chunk and place in 64 bits


@dataclass(frozen=True)
class Options(SourceOptions):
    """From sources to pages.

    Args:
        tokenizer: gpt2, a folder of a tokenizer, or a name on the Hugging Face hub
        format: how a conversation is written. eos: end-of-text after each turn (DialoGPT); tags: A: and B: before,
            three newlines after it; sep: <sep> around it
        loss_on: the turns that count; responses is every turn but the first. Weights that turns bring count on them
        row_length: tokens per record; a longer conversation is cut where turns begin, into pieces that overlap by one
            turn, which counts only once
        shards: files per split; at least the number of hosts that will train
        valid_fraction: share of the documents or conversations for the split valid
        test_fraction: share for the split test; 0 makes no such split
        seed: of the hash of a document's content that decides its split
        strict: stop at input that is damaged, instead of leaving that piece out and counting it
        clean: what to mend and leave out
    """

    tokenizer: str = "gpt2"
    format: FormatName = "eos"
    loss_on: LossOn = "all"
    row_length: int = 1024
    shards: int = 8
    valid_fraction: float = 0.01
    test_fraction: float = 0.0
    seed: int = 42
    strict: bool = False
    clean: Cleaning = field(default_factory=Cleaning)

    def __post_init__(self) -> None:
        for name, value, low in (
            ("row_length", self.row_length, 8),
            ("shards", self.shards, 1),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise UserError(f"--{name} is {value}; it must be {low} or more")
        if self.shards > _MOST_SHARDS:
            raise UserError(f"--shards is {self.shards}; it must be {_MOST_SHARDS} or less")
        for name, share in (("valid_fraction", self.valid_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= share < 1:
                raise UserError(f"--{name} is {share}; it must lie in [0, 1)")
        if self.seed >= 1 << 64:
            raise UserError(f"--seed is {self.seed}; it must be below 2^64")
        if self.valid_fraction + self.test_fraction >= 1:
            raise UserError(
                f"--valid_fraction {self.valid_fraction} and --test_fraction {self.test_fraction} leave nothing to "
                "train on; lower one of them"
            )

    @property
    def fractions(self) -> tuple[tuple[str, float], ...]:
        """Held-out splits first, so that changing a later share moves no item of an earlier one."""
        held_out = (("valid", self.valid_fraction), ("test", self.test_fraction))
        rest = 1 - self.valid_fraction - self.test_fraction
        return (*((name, share) for name, share in held_out if share > 0), ("train", rest))

    def check_kind(self, kind: Kind) -> None:
        """UserError for options that pages of this kind have no use for."""
        for name, value, default in (("format", self.format, "eos"), ("loss_on", self.loss_on, "all")):
            if kind == "stream" and value != default:
                raise UserError(
                    f"--{name} is {value}, but the sources hold documents, which have no turns; leave it out"
                )

    def as_dict(self) -> dict[str, Any]:
        """Flat, by the names of the command line."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        return flat
