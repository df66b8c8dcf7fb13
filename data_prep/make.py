"""A folder of pages from options: plan, build, manifest."""

import json
import shlex
import shutil
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.build import BUILD, FINISHED, Plan, merge_examples
from data_prep.claim import claim_output, fingerprint, locked
from data_prep.duplicates import find_duplicates
from data_prep.encode import choose_engine
from data_prep.local import Writer, local_writer
from data_prep.options import Options
from data_prep.sources.chunk import Dropped, Item, Source
from data_prep.sources.kinds import open_sources
from data_prep.tfds_files import write_tfds_files
from data_prep.worker import Recipe
from jaxgpt.data.atomic import remove_partial, write_text
from jaxgpt.data.dialogue import FORMATS
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, SplitInfo, load_manifest
from jaxgpt.data.records import Kind, PageFormat
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError

_SAMPLE_CHUNKS, _SAMPLE_CHARS = 8, 1 << 15  # of each source, to compare the two tokenizer engines on


def make(options: Options, output: Path, processes: int, write: Writer | None = None) -> Manifest:
    """Pages in `output`; goes on where an earlier call was stopped, and does nothing where they are finished.

    write: builds the given shards of a plan; by default `processes` workers on this machine do
    """
    output = output.resolve()
    sources = open_sources(options, output / BUILD)
    options.clean.check_sources({source.holds for source in sources})
    kind: Kind = "stream" if all(source.holds == "documents" for source in sources) else "dialogue"
    options.check_kind(kind)
    tokenizer = load_tokenizer(options.tokenizer)
    if kind == "dialogue":
        tokenizer = tokenizer.with_tokens(FORMATS[options.format].special_tokens)
    build = fingerprint(options, sources, tokenizer)
    if claim_output(output, build):
        print(f"{output} already holds these pages; nothing to do")
        return load_manifest(output)
    with locked(output):
        try:
            splits, table = _build(
                options, output, sources, kind, tokenizer, processes, write or local_writer(processes)
            )
        except UserError:
            # Mostly the input has to change, and then nothing here is of use. What is finished stays all the same: it
            # may be a bucket that could not be reached, and that is hours of work.
            if not any(any((output / BUILD).glob(pattern)) for pattern in FINISHED):
                shutil.rmtree(output)
            raise
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


def _build(
    options: Options,
    output: Path,
    sources: tuple[Source, ...],
    kind: Kind,
    tokenizer: Tokenizer,
    processes: int,
    write: Writer,
) -> tuple[dict[str, SplitInfo], list[dict[str, Any]]]:
    """The shards that are not there yet; returns the manifest's splits and sources."""
    remove_partial(output)
    tokenizer.save(output / TOKENIZER_FOLDER)
    plan = _plan(options, output, sources, kind, tokenizer)
    if plan.recipe.duplicates is not None and not plan.recipe.duplicates.is_file():
        find_duplicates(plan, processes)
    missing = [index for index in range(plan.n_shards) if not plan.result_path(index).is_file()]
    if missing:
        write(plan, missing)
    splits, table = _collect(plan)
    if not any(split.documents for split in splits.values()):
        what = "conversation with two turns or more" if kind == "dialogue" else "document with text"
        shutil.rmtree(output / BUILD)  # these shards are finished, but of no use to anybody
        why = ", ".join(f"{name} {n:,}" for row in table for name, n in row.items() if name.startswith("dropped"))
        raise UserError(
            f"--source {' '.join(options.source)}: no {what} among {sum(row.get('read', 0) for row in table):,}"
            f"{f' ({why})' if why else ''}; check the input"
        )
    return splits, table


def _plan(options: Options, output: Path, sources: tuple[Source, ...], kind: Kind, tokenizer: Tokenizer) -> Plan:
    sample = [text for source in sources for text in _sample(source)]
    recipe = Recipe(
        page_format=PageFormat(kind, options.row_length, tokenizer.vocab_size),
        tokenizer_folder=output / TOKENIZER_FOLDER,
        engine=choose_engine(tokenizer, sample),
        dialogue_format=options.format,
        loss_on=options.loss_on,
        fractions=options.fractions,
        seed=options.seed,
        strict=options.strict,
        cleaning=options.clean,
        duplicates=None if options.clean.duplicates == "off" else output / BUILD / "duplicates.npy",
    )
    return Plan(sources, recipe, tokenizer.eos_token_id, options.shards, output)


def _sample(source: Source) -> list[str]:
    """The texts of the source's first items."""
    texts: list[str] = []
    for chunk in islice(source.chunks(0, _SAMPLE_CHARS), _SAMPLE_CHUNKS):
        for item in () if isinstance(chunk.data, Dropped) else source.read(chunk):
            if isinstance(item, Item):
                texts += [item] if isinstance(item, str) else [turn.text for turn in item.turns]
                if sum(map(len, texts)) > _SAMPLE_CHARS:
                    return [text[:_SAMPLE_CHARS] for text in texts]
    return texts


def _collect(plan: Plan) -> tuple[dict[str, SplitInfo], list[dict[str, Any]]]:
    """The manifest's splits and sources from the finished shards' results."""
    results = [json.loads(plan.result_path(index).read_text(encoding="utf-8")) for index in range(plan.n_shards)]
    splits = {}
    for split, _ in plan.recipe.fractions:
        parts = [result["splits"][split] for result in results]
        sums = {
            key: sum(part[key] for part in parts) for key in ("documents", "tokens", "targets", "text_bytes", "words")
        }
        shards = tuple(
            ShardInfo(plan.file(split, index), part["records"], part["tokens"], part["bytes"], part["crc32c"])
            for index, part in enumerate(parts)
        )
        splits[split] = SplitInfo(**sums, shards=shards)
    table = []
    for number, source in enumerate(plan.sources):
        counts: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for result in results:
            of_source = result["sources"].get(str(number), {"counts": {}, "examples": {}})
            counts.update(of_source["counts"])
            merge_examples(examples, of_source["examples"])
        row = {"source": source.spec, "files": len(source.fingerprint()), **dict(sorted(counts.items()))}
        table.append(row | ({"examples": examples} if any(examples.values()) else {}))
    return splits, table
