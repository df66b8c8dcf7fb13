"""Several data sets of any kinds, read once and measured with each of several models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxgpt.evaluate.corpora import Corpus, open_corpus
from jaxgpt.evaluate.lambada import as_texts, measure_lambada, read_passages
from jaxgpt.evaluate.lossless import altered
from jaxgpt.evaluate.measuring import (
    check_fits,
    check_options,
    is_lambada,
    is_text,
    on_pages_or_dialogue,
    on_text,
)
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.protocols import Measured
from jaxgpt.evaluate.subject import Subject


@dataclass(frozen=True)
class DataSets:
    """corpora, passages (of LAMBADA): by name; others: how pages and dialogue, which are read later, are measured."""

    corpora: dict[str, Corpus]
    passages: dict[str, list[str]]
    others: list[DataOptions]

    @classmethod
    def read(cls, data: Sequence[str], options: DataOptions) -> "DataSets":
        """UserError where data can't be read, or an option is of none of them."""
        check_options(options, data)
        corpora = {spec: open_corpus(spec, options.text_field, options.separator) for spec in data if is_text(spec)}
        passages = {spec: read_passages(spec) for spec in data if is_lambada(spec)}
        others = [spec for spec in data if spec not in corpora and spec not in passages]
        of_others = [replace(options, data=spec, protocol=[], context=None, stride=None) for spec in others]
        return cls(corpora, passages, of_others)

    def check(self, subject: Subject) -> Iterator[str]:
        """What should be said of the model's figures, a sentence each; UserError where data do not fit the model."""
        for options in self.others:
            check_fits(subject, options)
        for passages in self.passages.values():
            as_texts(subject.tokenizer, passages, subject.scorer.context - 1)
        for corpus in self.corpora.values():
            yield from filter(None, [altered(subject.name, subject.tokenizer, corpus)])

    def measure(self, subject: Subject, options: DataOptions) -> dict[str, Sequence[Measured]]:
        """The figures of each data set. options: of texts."""
        figures: dict[str, Sequence[Measured]] = {}
        for spec, corpus in self.corpora.items():
            figures[spec] = on_text(subject, corpus, options)
        for spec, passages in self.passages.items():
            figures[spec] = measure_lambada(subject.scorer, subject.tokenizer, passages)
        for other in self.others:
            figures[other.data] = on_pages_or_dialogue(subject, other).figures
        return figures
