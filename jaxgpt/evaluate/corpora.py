"""The texts that language models are compared on: standard test sets by name, and whatever data preparation reads."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.sources.chunk import Dropped
from data_prep.sources.files import DAMAGE, opened
from data_prep.sources.kinds import KINDS, SourceOptions, open_sources
from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError
from jaxgpt.evaluate import detokenize
from jaxgpt.evaluate.detokenize import Detokenize, as_it_is

_CHUNK_BYTES = 1 << 22
_WITH_SPLITS = ("hf", "tfds")


class Document(NamedTuple):
    """text: the original; rows: the same as the data set has it, where that is in pieces."""

    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """text: all of it, as it is in the file; detokenize: from that to what a model of ordinary text reads."""

    name: str
    text: str
    documents: tuple[Document, ...]
    detokenize: Detokenize = as_it_is


@dataclass(frozen=True)
class _Standard:
    """A test set. documents: of the file's text; hub: of `datasets`, None where only a file will do.

    origin: where to get the file.
    """

    documents: Callable[[str], list[Document]]
    detokenize: Detokenize
    hub: tuple[str, str] | None
    origin: str


def _pages(text: str) -> list[Document]:
    """WikiText's articles, each from its title to the next; rows are its lines, as `datasets` has them.

    Source: the data set of lm-evaluation-harness's task `wikitext`.
    """
    pages, rows, page = list[Document](), list[str](), list[str]()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if _is_title(line.strip()):
            if any(before.strip() for before in page):
                pages.append(Document("\n".join(page), tuple(rows)))
                rows = []
            page = []
        page.append(line)
        end = "\n" if number + 1 < len(lines) else ""
        if line or end:
            rows.append(line + end if line.strip() else "")
    return [*pages, Document("\n".join(page), tuple(rows))]


def _is_title(line: str) -> bool:
    """` = Title = `; headings within an article have more of them."""
    return line.startswith("= ") and line.endswith(" =") and not (line.startswith("= =") or line.endswith("= ="))


def _stripped_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _of_lines(text: str) -> list[Document]:
    return [Document(text, _stripped_lines(text))]


def _sentences(text: str) -> list[Document]:
    return [Document(line, (line,)) for line in _stripped_lines(text)]


def _as_one(text: str) -> list[Document]:
    return [Document(text, (text,))]


_TEST_BYTES = 5_000_000  # at the end of enwik8 and text8, by custom the test part
_WHOLE_BYTES = 90_000_000  # a file with more is all of them, and not what somebody has cut off
_WIKITEXT = "huggingface.co/datasets/Salesforce/wikitext"
STANDARD = {
    "wikitext2": _Standard(_pages, detokenize.wikitext, ("Salesforce/wikitext", "wikitext-2-raw-v1"), _WIKITEXT),
    "wikitext103": _Standard(_pages, detokenize.wikitext, ("Salesforce/wikitext", "wikitext-103-raw-v1"), _WIKITEXT),
    "ptb": _Standard(_of_lines, detokenize.ptb, None, "Mikolov's simple-examples, ptb.test.txt"),
    "1bw": _Standard(
        _sentences, detokenize.one_billion_words, None, "statmt.org/lm-benchmark, news.en.heldout-00000-of-00050"
    ),
    "enwik8": _Standard(_as_one, as_it_is, None, "mattmahoney.net/dc/enwik8.zip"),
    "text8": _Standard(_as_one, as_it_is, None, "mattmahoney.net/dc/text8.zip"),
}


def open_corpus(spec: str, text_field: str = "text", separator: str | None = None) -> Corpus:
    """spec: NAME or NAME:FILE of a standard test set, or KIND:PATHS of documents as make_tfrecords.py has them.

    UserError where there is no text, or where a data set has splits and none is named.
    """
    name, colon, target = spec.partition(":")
    if name in STANDARD:
        corpus = _standard(name, STANDARD[name], target if colon else None)
    else:
        texts = list[str]()
        for item in read_items(spec, text_field, separator):
            if not isinstance(item, str):
                raise UserError(f"--data {spec} holds conversations and no documents; give them as dialogue:FILE")
            texts.append(item)
        corpus = Corpus(spec, "\n\n".join(texts), tuple(Document(text, (text,)) for text in texts if text.strip()))
    if not corpus.text.strip():
        raise UserError(f"--data {spec} holds no text; give a file that does")
    return corpus


def read_items(spec: str, text_field: str = "text", separator: str | None = None) -> Iterator[str | Conversation]:
    """The documents or conversations of KIND:PATHS, hf:NAME:SPLIT or tfds:NAME:SPLIT.

    UserError names what can't be read; of a spec that is wrong before the first item is asked for.
    """
    kind, _, target = spec.partition(":")
    if kind not in KINDS:
        raise UserError(
            f"--data {spec}: write pages:DIR, KIND:PATHS with KIND of {', '.join(KINDS)}, or the name of a test set: "
            f"{', '.join((*STANDARD, 'lambada'))}"
        )
    if kind in _WITH_SPLITS and not target.partition(":")[2]:
        # Where pages are made it is train unless named, which is not what a model should be measured on.
        raise UserError(
            f"--data {spec} names no split; write {kind}:{target.rstrip(':') or 'NAME'}:test, or another one"
        )
    return _items(spec, text_field, separator)


def _items(spec: str, text_field: str, separator: str | None) -> Iterator[str | Conversation]:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            (source,) = open_sources(SourceOptions([spec], text_field, separator), Path(scratch))
        except UserError as error:
            # What is --source where pages are made is --data here.
            raise UserError(str(error).replace("--source", "--data")) from None
        for chunk in source.chunks(0, _CHUNK_BYTES):
            for item in [chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk):
                if not isinstance(item, Dropped):
                    yield item
                elif item.damaged:
                    raise UserError(f"--data {spec}: {item.reason}: {item.example}; mend that file or leave it out")


def _standard(name: str, standard: _Standard, file: str | None) -> Corpus:
    if file is not None:
        text = read_text(file)
        text = _test_part(text) if name in ("enwik8", "text8") else text
    elif standard.hub:
        text = "".join(row["text"] or " \n" for row in from_hub(name, *standard.hub))
    else:
        raise UserError(f"--data {name} needs a file: {name}:FILE; get it from {standard.origin}")
    return Corpus(name, text, tuple(standard.documents(text)), standard.detokenize)


def _test_part(text: str) -> str:
    content = text.encode()
    # The first character may be cut in two, and what is left of it is no character.
    return content[-_TEST_BYTES:].decode(errors="ignore") if len(content) > _WHOLE_BYTES else text


def read_text(file: str) -> str:
    """A UTF-8 file without a byte order mark, decompressed where its name says that it is compressed.

    UserError where it is none.
    """
    if not (Path(file).is_file() or Path(file).is_fifo()):
        raise UserError(f"there is no file {file!r}; check the path")
    with opened(file) as (content, _):
        try:
            text: str = content.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 (byte {error.start}); convert it, or give another file") from None
        except DAMAGE as error:
            raise UserError(f"{file} is damaged ({error}); get it again") from None
    return text


def from_hub(name: str, path: str, config: str) -> Any:
    """The test split of a data set; UserError where the hub can't be asked."""
    try:
        import datasets

        return datasets.load_dataset(path, config, split="test")
    except Exception as error:  # the package is missing, or raises one of several kinds of its own and of its back ends
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--data {name}: {path} of huggingface.co can't be loaded ({reason}); give a file: {name}:FILE"
        ) from None
