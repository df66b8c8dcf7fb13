"""Several models on the same data: what each is, what it cost, what it reaches, and whether a difference is one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxgpt.checks import require
from jaxgpt.evaluate.by_position import loss_by_position
from jaxgpt.evaluate.continuation import continue_text
from jaxgpt.evaluate.curve import Curve, read_curve
from jaxgpt.evaluate.data_sets import DataSets
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.paired import Difference, paired
from jaxgpt.evaluate.protocols import Measured, check_protocols
from jaxgpt.evaluate.subject import Subject, open_subject
from jaxgpt.evaluate.windows import check_windows
from jaxgpt.train.run import holds_run, read_config

INDEPENDENT = ("word", "bits_per_byte", "perplexity[last_word]", "accuracy[last_word]")  # of the tokenizer


@dataclass(frozen=True)
class Entry:
    """A model in the table. tokens, flops: that it was trained on and with, hours: of steps; None where nobody knows.

    figures: by data, in the order of the protocols; by_position: `loss_by_position` on the first data that are texts;
    samples: a text per prompt.
    """

    name: str
    n_parameters: int
    step: int | None
    tokens: float | None
    flops: float | None
    hours: float | None
    tokenizer: str
    figures: dict[str, Sequence[Measured]]
    curve: Curve | None
    by_position: np.ndarray | None
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """differences: of every other model to the first one, by data, where both are over the same units.

    left_out: what is not compared, and why, a sentence each.
    """

    entries: list[Entry]
    data: list[str]
    prompts: list[str]
    differences: dict[str, list[Difference]]
    left_out: list[str]


def compare(
    names: Sequence[str], data: Sequence[str], options: DataOptions, prompts: Sequence[str], new_tokens: int
) -> Comparison:
    """Windows have options.context tokens, by default as many as all models take.

    UserError, before anything is measured, where there are fewer than two models, or one can't be compared.
    """
    _check(names, data, options, new_tokens)
    read = DataSets.read(data, options)
    facts, warnings = [], list[str]()
    for name in names:
        subject = open_subject(name, None, None, None)
        facts.append(_facts(subject))
        warnings += read.check(subject)
    context = options.context or min(most for _, most in facts)
    options = replace(options, context=context, stride=options.stride or context)
    if read.corpora:
        for _, most in facts:
            check_windows(context, options.stride or context, most)
    text = next(iter(read.corpora.values()), None)
    entries = []
    for name, (entry, _) in zip(names, facts, strict=True):
        subject = open_subject(name, None, None, None)
        figures = read.measure(subject, options)
        position = loss_by_position(subject.scorer, subject.tokenizer, text) if text else None
        samples = tuple(continue_text(subject, prompt, new_tokens) for prompt in prompts)
        entries.append(replace(entry, figures=figures, by_position=position, samples=samples))
    differences = {spec: _differences(entries, spec) for spec in data}
    return Comparison(entries, list(data), list(prompts), differences, [*warnings, *_left_out(entries, differences)])


def _check(names: Sequence[str], data: Sequence[str], options: DataOptions, new_tokens: int) -> None:
    require(len(names) > 1, f"{len(names)} model to compare; give two or more")
    for what, given in (("models", names), ("--data", data)):
        twice = next((one for one in given if given.count(one) > 1), None)
        require(twice is None, f"{what}: {twice} stands there twice; leave it out once")
    require(new_tokens > 0, f"--new_tokens is {new_tokens}; it must be above 0")
    check_protocols(options.protocol)


def _left_out(entries: list[Entry], differences: dict[str, list[Difference]]) -> Iterator[str]:
    if len({entry.tokenizer for entry in entries}) > 1:
        yield (
            "The models have different tokenizers, so figures per token are not comparable between them: compare by "
            "word perplexity, bits per byte and LAMBADA's last words."
        )
    for spec, found in differences.items():
        for entry in entries[1:]:
            there = [difference.protocol for difference in found if difference.other == entry.name]
            lacking = [one.protocol for one, _ in _comparable(entries[0], entry, spec) if one.protocol not in there]
            if lacking:
                yield (
                    f"On {spec} the difference of {entry.name} and {entries[0].name} has no interval in "
                    f"{', '.join(lacking)}: they are not over the same units (windows of one text, or pieces of "
                    "pages), or not finite."
                )


def _differences(entries: list[Entry], spec: str) -> list[Difference]:
    first, *others = entries
    pairs = ((other, one, two) for other in others for one, two in _comparable(first, other, spec))
    found = (paired(first.name, one, other.name, two) for other, one, two in pairs)
    return [difference for difference in found if difference]


def _comparable(first: Entry, other: Entry, spec: str) -> list[tuple[Measured, Measured]]:
    """The two models' figures of each protocol by which they may be compared."""
    both = zip(first.figures[spec], other.figures[spec], strict=True)
    same = first.tokenizer == other.tokenizer
    return [(one, two) for one, two in both if same or one.protocol in INDEPENDENT]


def _facts(subject: Subject) -> tuple[Entry, int]:
    """An entry without figures, and the most tokens of a window that the model takes."""
    tokens, flops, hours, curve = None, None, None, None
    run = Path(subject.name)
    if holds_run(run) and subject.model and subject.step:
        curve = read_curve(run, subject.model.cfg, read_config(run)["train"]["batch_size"])
        at = np.array([subject.step])
        if curve:
            tokens, flops, hours = (float(curve.at(at, of)[0]) for of in (curve.tokens, curve.flops, curve.hours))
    entry = Entry(
        subject.name,
        subject.n_parameters,
        subject.step,
        tokens,
        flops,
        hours,
        subject.tokenizer.hash,
        {},
        curve,
        None,
        (),
    )
    return entry, subject.scorer.context - 1
