#!/usr/bin/env python3
"""Text or dialogue to TFRecord pages:

    python data_prep/make_tfrecords.py --source dialogue:talks.jsonl --format tags --output data/talks
    python data_prep/make_tfrecords.py --source 'text:books/*.txt' openwebtext:openwebtext.tar.xz --output data/books

The folder gets shards per split, the tokenizer, TFDS's metadata and, last, manifest.json. A build that was stopped
goes on where it was when the same command runs again; a finished one is left as it is. docs/data.md has every kind of
source.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from data_prep.make import make
from data_prep.options import Options
from data_prep.report import report, warnings
from data_prep.sources.kinds import KINDS
from jaxgpt.command import parse, print_json, run
from jaxgpt.errors import UserError

DESCRIPTION = "Text or dialogue to TFRecord pages. docs/data.md has a command for every kind of source."


def main() -> None:
    parser = ArgumentParser(prog="make_tfrecords.py", description=DESCRIPTION, exit_on_error=False)
    parser.add_argument("--source", nargs="+", required=True, metavar="KIND:PATHS", help=f"KIND is {', '.join(KINDS)}")
    parser.add_class_arguments(Options, skip={"source"})
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pages")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=cores, help="worker processes on this machine")
    parser.add_argument("--hosts", type=int, default=1, help="hosts that will train; warns where shards are fewer")
    parser.add_argument("--runner", type=Literal["local", "beam"], default="local", help="beam: Apache Beam")
    parser.add_argument(
        "--beam_options",
        type=list[str],
        default=[],
        help="Beam's own, as in '[--runner=FlinkRunner]'",
    )
    parser.add_argument("--verify", type=bool, default=True, help="read all shards again and check them")
    parser.add_argument("--upload", type=str | None, default=None, metavar="URL", help="gs://… to copy the pages to")
    parser.add_argument("--region", type=str | None, default=None, help="the bucket has to be in, as in us-central1")
    parser.add_argument("--json", action="store_true", help="print the splits' counts as JSON in the last line")
    args = parse(parser, sys.argv[1:])
    options = Options(**{name: getattr(args, name) for name in Options.__dataclass_fields__})
    for name in ("processes", "hosts"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be 1 or more")
    if args.output.startswith("gs://"):
        raise UserError(f"--output {args.output} is a bucket; give a local folder there and the bucket as --upload")
    if args.region is not None and args.upload is None:
        raise UserError(f"--region {args.region} is the bucket's; give --upload gs://BUCKET/FOLDER, or leave it out")
    if args.beam_options and args.runner != "beam":
        raise UserError("--beam_options are for --runner beam; add that, or leave them out")
    if args.upload is not None:
        from jaxgpt.data.upload import check_bucket

        check_bucket(args.upload, args.region)  # before hours of work
    output = Path(args.output)
    write = None
    if args.runner == "beam":
        from data_prep.beam import beam_writer

        write = beam_writer(args.beam_options)
    manifest = make(options, output, args.processes, write)
    if args.verify:
        from jaxgpt.data.verify import verify

        verify(output)
    report(manifest, output)
    for warning in warnings(manifest, args.hosts):
        print(f"warning: {warning}", file=sys.stderr)
    if args.upload is not None:
        from jaxgpt.data.upload import upload

        upload(output, args.upload, args.region)
    if args.json:
        splits = {name: asdict(split) for name, split in manifest.splits.items()}
        print_json({"output": args.output, "splits": splits, "sources": manifest.sources})


if __name__ == "__main__":
    run(main)
