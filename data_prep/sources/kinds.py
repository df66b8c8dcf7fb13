"""`--source KIND:PATHS` to sources: which kinds there are, and the options that some of them take."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.camrest import CamRest
from data_prep.sources.chat import Chat
from data_prep.sources.chunk import Source
from data_prep.sources.dialogpt import DialoGPT
from data_prep.sources.dialogue import Dialogue
from data_prep.sources.files import InputFile, find_files
from data_prep.sources.hf import open_huggingface
from data_prep.sources.jsonl import JsonLines
from data_prep.sources.multiwoz import MultiWOZ
from data_prep.sources.openwebtext import OpenWebText
from data_prep.sources.parquet import Parquet
from data_prep.sources.persuasion import Persuasion
from data_prep.sources.reddit import Reddit
from data_prep.sources.reddit_filters import RedditFilters
from data_prep.sources.text import Text
from data_prep.sources.tfds import open_tfds
from jaxgpt.errors import UserError

KINDS = (
    *("text", "jsonl", "parquet", "openwebtext", "tfds", "hf"),
    *("dialogue", "chat", "dialogpt", "reddit", "multiwoz", "camrest", "persuasion"),
)

_TAKERS = {  # options that not every kind takes
    "text_field": ("jsonl", "parquet", "openwebtext", "tfds", "hf"),
    "separator": ("text",),
    "reverse": ("dialogpt",),
    "reddit": ("reddit",),
}


@dataclass(frozen=True)
class SourceOptions:
    """Where the text comes from.

    Args:
        source: KIND:PATHS, several allowed; PATHS is a path, a glob or a gs:// URL; .gz, .xz, .zst and .bz2 are
            decompressed. docs/data.md has a table of the kinds
        text_field: of jsonl, parquet, hf and tfds: the field or column with the text or the list of turns; except in
            parquet a.b is the field b in the field a
        separator: of text: the line between two documents; by default a file is a document
        reverse: of dialogpt: turns in reverse order, for a model of the source given the target (MMI)
        reddit: filters of reddit
    """

    source: list[str]
    text_field: str = "text"
    separator: str | None = None
    reverse: bool = False
    reddit: RedditFilters = field(default_factory=RedditFilters)


def open_sources(options: SourceOptions, scratch: Path) -> tuple[Source, ...]:
    """The sources behind each KIND:PATHS; UserError where one cannot be opened, or where an option has no use.

    scratch: a folder, not made yet, for what a source has to put down on disk.
    """
    kinds = {spec.partition(":")[0] for spec in options.source}
    for name, takers in _TAKERS.items():
        value, default = getattr(options, name), getattr(SourceOptions([]), name)
        if value != default and not kinds & set(takers):
            raise UserError(f"--{name} is for the kinds {', '.join(takers)}, and --source has none; leave it out")
    return tuple(_open(spec, options, scratch / f"source-{number}") for number, spec in enumerate(options.source))


def _open(spec: str, options: SourceOptions, scratch: Path) -> Source:
    kind, colon, target = spec.partition(":")
    if not colon or kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1) if colon else []
        hint = f"did you mean {near[0]}:{target}?" if near else f"the kinds are {', '.join(KINDS)}"
        raise UserError(f"--source {spec}: write KIND:PATHS; {hint}")
    if kind == "tfds":
        return open_tfds(spec, target, options.text_field)
    if kind == "hf":
        return open_huggingface(spec, target, options.text_field)
    return _open_files(kind, spec, find_files(spec, target), options, scratch)


def _open_files(kind: str, spec: str, files: tuple[InputFile, ...], options: SourceOptions, scratch: Path) -> Source:
    match kind:
        case "text":
            return Text(spec, files, options.separator)
        case "jsonl":
            return JsonLines(spec, files, options.text_field)
        case "parquet":
            return Parquet(spec, files, options.text_field)
        case "openwebtext":
            return _openwebtext(spec, files, options)
        case "dialogpt":
            return DialoGPT(spec, files, options.reverse)
        case "reddit":
            return Reddit(spec, files, str(scratch), options.reddit)
        case "dialogue":
            return Dialogue(spec, files)
        case "chat":
            return Chat(spec, files)
        case "multiwoz":
            return MultiWOZ(spec, files)
        case "camrest":
            return CamRest(spec, files)
    return Persuasion(spec, files)


def _openwebtext(spec: str, files: tuple[InputFile, ...], options: SourceOptions) -> Source:
    """The original archive, or one of its copies."""
    suffixes = Path(files[0].path).suffixes
    if suffixes[-1:] == [".parquet"]:
        return Parquet(spec, files, options.text_field)
    if ".jsonl" in suffixes[-2:]:
        return JsonLines(spec, files, options.text_field)
    return OpenWebText(spec, files)
