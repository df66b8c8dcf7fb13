#!/usr/bin/env python3
"""Text or dialogue to TFRecord pages:

    python data_prep/make_tfrecords.py --source dialogue:talks.jsonl --format tags --output data/talks
    python data_prep/make_tfrecords.py --source 'text:books/*.txt' --output data/books

The folder gets shards per split, the tokenizer, TFDS's metadata and, last, manifest.json. A build that was stopped goes
on where it was when the same command runs again; a finished one is left as it is.
"""

import json
import os
import shlex
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from data_prep.build import BUILD, Job
from data_prep.claim import claim_output, fingerprint
from data_prep.inputs import Source, assign, find_sources
from data_prep.pool import build_all
from data_prep.tfds_files import write_tfds_files
from jaxgpt.command import parse, print_json, run
from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import FORMATS, FormatName, LossOn
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, SplitInfo, load_manifest
from jaxgpt.data.records import Kind, PageFormat
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Options:
    """What decides the bytes of the pages.

    Args:
        source: KIND:PATH, several allowed. dialogue: JSON Lines, a list of turns per line; text: a file is a document.
            PATH may be a glob
        tokenizer: gpt2, a folder with tokenizer.json, or a name on the Hugging Face hub
        format: how a conversation is written. eos: end-of-text after each turn (DialoGPT); tags: A: and B: before,
            three newlines after it; sep: <sep> around it
        loss_on: the turns that count; responses is every turn but the first
        row_length: tokens per record; a longer conversation is cut where turns begin, into pieces that overlap by one
            turn, which counts only once
        shards: files per split; at least the number of hosts that will train
        valid_fraction: share of the documents or conversations for the split valid
        test_fraction: share for the split test; 0 makes no such split
        seed: of the hash of a document's content that decides its split
    """

    source: list[str]
    tokenizer: str = "gpt2"
    format: FormatName = "eos"
    loss_on: LossOn = "all"
    row_length: int = 1024
    shards: int = 8
    valid_fraction: float = 0.01
    test_fraction: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        for name, value, low in (
            ("row_length", self.row_length, 8),
            ("shards", self.shards, 1),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise UserError(f"--{name} is {value}; it must be {low} or more")
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


def collect(jobs: list[Job], sources: list[Source]) -> tuple[dict[str, SplitInfo], list[dict[str, Any]]]:
    """The manifest's splits and sources from the finished jobs' results."""
    results = [json.loads(job.result_path.read_text(encoding="utf-8")) for job in jobs]
    splits = {}
    for split, _ in jobs[0].fractions:
        parts = [result["splits"][split] for result in results]
        sums = {
            key: sum(part[key] for part in parts) for key in ("documents", "tokens", "targets", "text_bytes", "words")
        }
        shards = tuple(
            ShardInfo(job.file(split), part["records"], part["tokens"], part["bytes"], part["crc32c"])
            for job, part in zip(jobs, parts, strict=True)
        )
        splits[split] = SplitInfo(**sums, shards=shards)
    table = []
    for number, source in enumerate(sources):
        counts: Counter[str] = Counter()
        for result in results:
            counts.update(result["sources"].get(str(number), {}))
        table.append({"source": source.spec, "files": len(source.paths), **dict(sorted(counts.items()))})
    return splits, table


def make(options: Options, output: Path, processes: int) -> Manifest:
    sources = find_sources(options.source)
    kind: Kind = "stream" if sources[0].kind == "text" else "dialogue"
    tokenizer = load_tokenizer(options.tokenizer)
    if kind == "dialogue":
        tokenizer = tokenizer.with_tokens(FORMATS[options.format].special_tokens)
    shares = list(assign(sources, options.shards))  # refuses empty files before anything is written
    build = fingerprint(asdict(options), sources, tokenizer)
    if claim_output(output, build):
        print(f"{output} already holds these pages; nothing to do")
        return load_manifest(output)

    page_format = PageFormat(kind, options.row_length, tokenizer.vocab_size)
    jobs = [
        Job(
            index,
            options.shards,
            share,
            output,
            page_format,
            options.format if kind == "dialogue" else None,
            options.loss_on,
            options.fractions,
            options.seed,
        )
        for index, share in enumerate(shares)
    ]
    tokenizer.save(output / TOKENIZER_FOLDER)
    for partial in output.glob(".*.partial"):  # of an earlier call that was killed
        partial.unlink()
    try:
        build_all([job for job in jobs if not job.result_path.is_file()], output / TOKENIZER_FOLDER, processes)
    except UserError:
        shutil.rmtree(output)  # the input has to change, so nothing of this build will be of use
        raise
    splits, table = collect(jobs, sources)
    if not any(split.documents for split in splits.values()):
        shutil.rmtree(output)  # everything in it is this build's own
        what = "conversation with two turns or more" if kind == "dialogue" else "document with text"
        raise UserError(f"--source {' '.join(options.source)}: no {what} among {_read(table)}; check the input")
    manifest = Manifest(
        kind=kind,
        row_length=options.row_length,
        vocab_size=tokenizer.vocab_size,
        tokenizer=options.tokenizer,
        tokenizer_hash=tokenizer.hash,
        eos_token_id=tokenizer.eos_token_id,
        dialogue_format=options.format if kind == "dialogue" else None,
        loss_on=options.loss_on if kind == "dialogue" else None,
        splits=splits,
        sources=table,
        command=shlex.join(["python", "data_prep/make_tfrecords.py", *sys.argv[1:]]),
        options=build,
    )
    write_tfds_files(output, manifest)
    write_text(output / FILE, manifest.to_json())
    shutil.rmtree(output / BUILD)
    return manifest


def _read(table: list[dict[str, Any]]) -> int:
    return sum(source.get("read", 0) for source in table)


def report(manifest: Manifest, output: Path) -> None:
    """What went in, what came out, and what did not."""
    for source in manifest.sources:
        counts = ", ".join(f"{name} {count:,}" for name, count in source.items() if isinstance(count, int))
        print(f"{source['source']}: {counts}")
    for name, split in manifest.splits.items():
        filled = split.tokens / max(split.records * manifest.row_length, 1)
        print(
            f"{name}: {split.documents:,} {'conversations' if manifest.kind == 'dialogue' else 'documents'}, "
            f"{split.tokens:,} tokens in {split.records:,} rows of {manifest.row_length} ({filled:.1%} filled)"
        )
        if not split.documents:
            print(f"warning: no item fell into the split {name}; raise its fraction or bring more data")
    print(f"pages are in {output}")


def main() -> None:
    parser = ArgumentParser(prog="make_tfrecords.py", description=__doc__, exit_on_error=False)
    parser.add_argument("--source", nargs="+", required=True, metavar="KIND:PATH", help="see below")
    parser.add_class_arguments(Options, skip={"source"})
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pages")
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=processes, help="worker processes")
    parser.add_argument("--json", action="store_true", help="print the split's counts as JSON in the last line")
    args = parse(parser, sys.argv[1:])
    fields = {name: getattr(args, name) for name in Options.__dataclass_fields__}
    if args.processes < 1:
        raise UserError(f"--processes is {args.processes}; it must be 1 or more")
    manifest = make(Options(**fields), Path(args.output), args.processes)
    report(manifest, Path(args.output))
    if args.json:
        print_json({"output": args.output, "splits": {name: asdict(split) for name, split in manifest.splits.items()}})


if __name__ == "__main__":
    run(main)
