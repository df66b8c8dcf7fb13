"""`jaxgpt inspect | demo`."""

import sys
from dataclasses import asdict
from pathlib import Path

from jaxgpt.command import make_parser, parse, print_json
from jaxgpt.errors import UserError


def inspect(arguments: list[str]) -> None:
    """Show what a folder of pages holds, its first rows as text, and whether every byte is right.

    jaxgpt inspect data/pages --split valid --rows 5
    jaxgpt inspect data/pages --verify                # reads everything; exit code 1 where something is damaged
    """
    parser = make_parser("inspect", inspect.__doc__ or "")
    parser.add_argument("path", type=str, help="a folder of pages, or one of its shards")
    parser.add_argument("--split", type=str | None, default=None, help="split of the rows; train where not given")
    parser.add_argument("--rows", type=int, default=3, help="how many rows to show as text")
    parser.add_argument("--verify", action="store_true", help="check every byte, id and count")
    parser.add_argument("--json", action="store_true", help="print the table and the outcome as JSON in the last line")
    args = parse(parser, arguments)
    if args.rows < 0:
        raise UserError(f"--rows is {args.rows}; it must be 0 or more")

    from jaxgpt.data import inspect as inspecting
    from jaxgpt.data.manifest import load_manifest
    from jaxgpt.data.verify import Damaged, verify

    folder, shard = inspecting.locate(Path(args.path))
    manifest = load_manifest(folder)
    split = inspecting.split_of_shard(manifest, folder, shard) if shard else args.split or "train"
    if args.split not in (None, split):
        raise UserError(f"{args.path} is a shard of the split {split}, not of --split {args.split}; leave --split out")
    report = {"path": args.path, **inspecting.summary(manifest)}
    for line in inspecting.table(manifest):
        print(line)
    if args.verify:
        try:
            verified = verify(folder, shard)
        except Damaged as damaged:
            print(f"error: {damaged}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        report["verified"] = asdict(verified)
        speed = verified.bytes / 1e6 / max(verified.seconds, 1e-9)
        print(f"\nverified {verified.rows:,} rows, {verified.bytes:,} bytes at {speed:,.0f} MB/s")
    for line in inspecting.rows(manifest, folder, split, shard, args.rows, inspecting.has_colour(sys.stdout)):
        print(line)
    if args.json:
        print_json(report)


def demo(arguments: list[str]) -> None:
    """Everything on this machine with real dialogue: pages, training, perplexity, export, a bot.

    jaxgpt demo
    """
    parser = make_parser("demo", demo.__doc__ or "")
    parser.add_argument("--output", type=str, default="runs/demo", help="folder for all of it and report.json")
    parser.add_argument("--config", type=str, default="configs/demo.yaml", help="configuration of the training")
    parser.add_argument("--train_options", type=list[str], default=[], help="options to pass on to `jaxgpt train`")
    parser.add_argument("--conversations", type=int, default=0, help="use only this many; 0 means all")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, arguments)

    from jaxgpt.demo import run_demo

    report = run_demo(Path(args.output), Path(args.config), args.train_options, args.conversations)
    if args.json:
        print_json(report)
