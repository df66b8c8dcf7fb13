#!/usr/bin/env python3
"""A byte-level BPE tokenizer like GPT-2's from the texts of any source:

    python data_prep/train_tokenizer.py --source 'text:books/*.txt' --vocab_size 50257 --output data/tokenizer

The folder is a Hugging Face tokenizer, which make_tfrecords.py takes as --tokenizer. The same input gives the same
bytes. Memory grows with the number of different words; --max_bytes bounds it for a large corpus.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from jsonargparse import ArgumentParser

from data_prep.sources.chunk import Dropped, Source
from data_prep.sources.kinds import SourceOptions, open_sources
from jaxgpt.command import parse, print_json, run
from jaxgpt.data.atomic import write_text
from jaxgpt.data.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

_CHUNK_BYTES = 1 << 19
_PIECE_CHARACTERS = 1 << 16  # trained on at once: a whole book would be one word list
_COMPARED_BYTES = 1 << 20  # of the text, from its start, to count tokens on
_BYTES = 256


@dataclass(frozen=True)
class TokenizerOptions:
    """What decides the tokenizer.

    Args:
        vocab_size: ids in all: 256 bytes, the merged tokens, the special tokens
        special_tokens: beside <|endoftext|>, which is always the last
        min_frequency: how often a pair must occur to become a token
        max_bytes: stop after so much text (UTF-8 bytes); 0 means all
    """

    vocab_size: int = 50257
    special_tokens: list[str] | None = None
    min_frequency: int = 2
    max_bytes: int = 0

    def __post_init__(self) -> None:
        least = _BYTES + len(self.specials)
        for name, value, low in (
            ("vocab_size", self.vocab_size, least),
            ("min_frequency", self.min_frequency, 1),
            ("max_bytes", self.max_bytes, 0),
        ):
            if value < low:
                raise UserError(f"--{name} is {value}; it must be {low} or more")
        if "" in self.specials or len(set(self.specials)) < len(self.specials):
            raise UserError(
                f"--special_tokens {self.specials}: each must have text and stand there once; take out others"
            )

    @property
    def specials(self) -> list[str]:
        """Special tokens in the order of their ids."""
        return [token for token in self.special_tokens or [] if token != END_OF_TEXT] + [END_OF_TEXT]


@dataclass
class TextCount:
    """What has been read: bytes of text, items left out, and the first texts, to compare tokenizers on."""

    text_bytes: int = 0
    dropped: int = 0
    sample: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if self.text_bytes < _COMPARED_BYTES:
            self.sample.append(text[:_COMPARED_BYTES])
        self.text_bytes += len(text.encode())


def texts_of(sources: Iterable[Source], max_bytes: int, count: TextCount) -> Iterator[str]:
    """The text of each document and each turn, in order, until there are `max_bytes` bytes; filled in: `count`."""
    for source in sources:
        with progress_bar(total=source.size, unit="B", unit_scale=True, desc=source.spec) as bar:
            for chunk in source.chunks(0, _CHUNK_BYTES):
                items = [chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk)
                for item in items:
                    if isinstance(item, Dropped):
                        count.dropped += item.count
                        continue
                    for text in [item] if isinstance(item, str) else [turn.text for turn in item.turns]:
                        count.add(text)
                        yield text
                        if max_bytes and count.text_bytes >= max_bytes:
                            return
                bar.update(chunk.position - bar.n)
            bar.update(source.size - bar.n)


def train(texts: Iterable[str], options: TokenizerOptions) -> tokenizers.Tokenizer:
    """GPT-2's form: bytes as characters, its pre-tokenizer, no prefix space; special tokens have the last ids."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=options.vocab_size - len(options.specials),
        min_frequency=options.min_frequency,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_pieces(texts), trainer)
    for token in options.specials:
        if backend.token_to_id(token) is not None:
            raise UserError(
                f"--special_tokens: {token!r} is also a token that text may hold; choose one like <{token}>"
            )
    backend.add_special_tokens(options.specials)
    return backend


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Long texts in pieces, cut before a space, where a word ends in GPT-2's pre-tokenizer too."""
    for text in texts:
        start = 0
        while len(text) - start > _PIECE_CHARACTERS:
            stop = text.rfind(" ", start + 1, start + _PIECE_CHARACTERS)
            stop = stop if stop > 0 else start + _PIECE_CHARACTERS
            yield text[start:stop]
            start = stop
        yield text[start:]


def save(backend: tokenizers.Tokenizer, output: Path) -> None:
    """A folder that transformers.AutoTokenizer loads too; it appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        others = [
            token.content for token in backend.get_added_tokens_decoder().values() if token.content != END_OF_TEXT
        ]
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, **ends}
        specials = {**ends, **({"additional_special_tokens": others} if others else {})}
        Tokenizer(str(output), backend).save(temporary)
        write_text(temporary / "tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        write_text(temporary / "special_tokens_map.json", json.dumps(specials, indent=1, ensure_ascii=False) + "\n")
        temporary.chmod(0o755)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    n_tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    return round(sum(len(text.encode()) for text in texts) / max(n_tokens, 1), 4)


def make(sources: SourceOptions, options: TokenizerOptions, output: Path) -> dict[str, str | int | float]:
    """Trains, saves and measures; the report."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} already holds something; give a new folder")
    count = TextCount()
    with tempfile.TemporaryDirectory(prefix="jaxgpt-") as scratch:
        backend = train(texts_of(open_sources(sources, Path(scratch)), options.max_bytes, count), options)
    if not count.text_bytes:
        raise UserError(f"--source {' '.join(sources.source)}: no text in it; check the input")
    size = backend.get_vocab_size()
    if size < options.vocab_size:
        raise UserError(
            f"--vocab_size is {options.vocab_size}, but the text has only enough pairs for {size} tokens; lower "
            "--vocab_size or --min_frequency, or bring more text"
        )
    save(backend, output)
    return {
        "output": str(output),
        "vocab_size": size,
        "text_bytes": count.text_bytes,
        "bytes_per_token": bytes_per_token(load_tokenizer(str(output)), count.sample),
        "gpt2_bytes_per_token": bytes_per_token(load_tokenizer("gpt2"), count.sample),
        "dropped": count.dropped,
    }


def main() -> None:
    parser = ArgumentParser(prog="train_tokenizer.py", description=__doc__, exit_on_error=False)
    parser.add_argument("--source", nargs="+", required=True, metavar="KIND:PATHS", help="as of make_tfrecords.py")
    parser.add_class_arguments(SourceOptions, skip={"source"})
    parser.add_argument("--special_tokens", nargs="*", metavar="TOKEN", help="beside <|endoftext|>, which is the last")
    parser.add_class_arguments(TokenizerOptions, skip={"special_tokens"})
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the tokenizer")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, sys.argv[1:])
    sources = SourceOptions(**{name: getattr(args, name) for name in SourceOptions.__dataclass_fields__})
    options = TokenizerOptions(**{name: getattr(args, name) for name in TokenizerOptions.__dataclass_fields__})
    report = make(sources, options, Path(args.output))
    print(f"read {report['text_bytes']:,} bytes of text; {report['dropped']:,} items of the sources were left out")
    own, gpt2 = report["bytes_per_token"], report["gpt2_bytes_per_token"]
    print(f"{report['vocab_size']:,} tokens; bytes per token on the first MiB of that text: {own} (gpt2: {gpt2})")
    print(f"the tokenizer is in {report['output']}: make_tfrecords.py --tokenizer {report['output']}")
    if args.json:
        print_json(report)


if __name__ == "__main__":
    run(main)
