"""What `jaxgpt perplexity` can be told of its data. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxgpt.checks import require
from jaxgpt.data.dialogue import FormatName


@dataclass(frozen=True)
class DataOptions:
    """What to measure on, and how.

    Args:
        data: pages:DIR, a test set (wikitext2, wikitext103, ptb, 1bw, enwik8, text8, lambada; NAME:FILE takes it from a
            file), or KIND:PATHS as data_prep/make_tfrecords.py has them
        split: of pages; null means valid
        cache: for pages in a bucket, as data.cache of `jaxgpt train`
        protocol: of texts, one or several
        context: tokens of a window in token and adjusted; null means as many as the model takes
        stride: tokens between two windows there; null means context
        text_field: of jsonl, parquet, hf and tfds
        separator: of text: the line between two documents
        format: of dialogue: how turns are written; null means as the model was trained
    """

    data: str
    split: str | None = None
    cache: str | None = None
    protocol: Sequence[str] = ()
    context: int | None = None
    stride: int | None = None
    text_field: str = "text"
    separator: str | None = None
    format: FormatName | None = None

    def __post_init__(self) -> None:
        for name in ("context", "stride"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} is {value}; it must be above 0")
