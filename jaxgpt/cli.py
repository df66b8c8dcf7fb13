"""`jaxgpt <command>`. What is heavy is imported inside the command that needs it."""

import difflib
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgpt.command import fail, parse, print_json, run
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PROG = "jaxgpt"


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"{PROG} {version(PROG)}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        fail(f"{PROG} has no command {arguments[0]!r}; {hint}")
    run(lambda: command(arguments[1:]))


def _help() -> str:
    lines = [f"usage: {PROG} COMMAND [options]", "", "From text and dialogue to a chat bot of your own.", ""]
    lines += [f"  {name:12s} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROG} COMMAND --help shows the command's options."])


def _parser(command: str, description: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"{PROG} {command}", description=description, exit_on_error=False)


def train(arguments: list[str]) -> None:
    """Train a GPT-2, or go on with a run that exists.

    jaxgpt train --config configs/gpt2_small.yaml --output runs/mine
    jaxgpt train --output runs/mine                   # goes on with its own configuration
    """
    from jaxgpt.config import Config

    parser = _parser("train", train.__doc__ or "")
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(Config)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON in the last line")
    args = parse(parser, _with_own_config(arguments))
    cfg = Config(**{name: getattr(args, name) for name in Config.__dataclass_fields__})

    from jaxgpt.train.loop import train as run_training

    outcome = run_training(cfg)
    if args.json:
        print_json({"run": cfg.output, **asdict(outcome)})
    if outcome.stopped_by is not None:
        raise SystemExit(128 + outcome.stopped_by)
    if not args.json:
        print(f"{cfg.output} is trained: {outcome.step} steps; jaxgpt export {cfg.output} --output {cfg.output}/hf")


def _with_own_config(arguments: list[str]) -> list[str]:
    """An existing run's own configuration comes first where no other is given."""
    if any(argument.split("=")[0] == "--config" for argument in arguments):
        return arguments
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        output = value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""
        if name == "--output" and (Path(output) / "config.yaml").is_file():
            return ["--config", str(Path(output) / "config.yaml"), *arguments]
    return arguments


def perplexity(arguments: list[str]) -> None:
    """Perplexity of a run or an exported model on pages, per token and per word, and bits per byte.

    jaxgpt perplexity --model runs/mine --data data/pages
    """
    parser = _parser("perplexity", perplexity.__doc__ or "")
    parser.add_argument("--model", type=str, required=True, help="a run, or a folder that `jaxgpt export` made")
    parser.add_argument("--data", type=str, required=True, help="a folder of pages, or gs://BUCKET/FOLDER")
    parser.add_argument("--split", type=str, default="valid", help="split of the pages")
    _add_step(parser)
    parser.add_argument("--cache", type=str | None, default=None, help="as data.cache of `jaxgpt train`")
    parser.add_argument("--json", action="store_true", help="print the result as JSON in the last line")
    args = parse(parser, arguments)

    from jaxgpt.data.cache import page_folder
    from jaxgpt.evaluate.models import load_model
    from jaxgpt.evaluate.perplexity import perplexity as measure

    model = load_model(Path(args.model), args.step)
    result = measure(model, page_folder(args.data, [args.split], args.cache), args.split)
    where = args.model if model.step is None else f"{args.model} (step {model.step})"
    print(f"{where} on {args.data}, split {args.split}, tokenizer {model.tokenizer.hash[:12]}")
    for name, value in result.as_json().items():
        print(f"  {name:18s} {value:,.4f}" if isinstance(value, float) else f"  {name:18s} {value:,}")
    if args.json:
        print_json(result.as_json())


def _add_step(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--step", type=int | None, default=None, help="checkpoint of a run; by default the one with the lowest loss"
    )


def export(arguments: list[str]) -> None:
    """Write a run as a stock Hugging Face folder, and check it in PyTorch.

    jaxgpt export runs/mine --output runs/mine/hf
    """
    parser = _parser("export", export.__doc__ or "")
    parser.add_argument("run", type=str, help="a run, or an exported folder")
    parser.add_argument("--output", type=str, required=True, help="folder for model, tokenizer and chat template")
    _add_step(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, arguments)

    from jaxgpt.chat import export as exporting
    from jaxgpt.evaluate.models import load_model

    model, output = load_model(Path(args.run), args.step), Path(args.output)
    exporting.export(model, output)
    sequences, what = _parity_sequences(Path(args.run), model)
    parity = exporting.parity(model, output, sequences)
    print(f"{output} holds the model{'' if model.step is None else f' of step {model.step}'}")
    print(f"largest difference of a logit between JAX and PyTorch: {parity.max_abs_diff:.2e} on {parity.tokens} tokens")
    print(f"perplexity on {what}: JAX {parity.jax_perplexity:.4f}, PyTorch {parity.torch_perplexity:.4f}")
    if args.json:
        print_json({"output": str(output), "step": model.step, **asdict(parity), "data": what})
    if parity.max_abs_diff > exporting.BOUND:
        raise UserError(
            f"{output}: logits differ by {parity.max_abs_diff:.2e}, more than {exporting.BOUND:.0e}; do not use "
            "it, and please report this with the model's config.json"
        )


def _parity_sequences(folder: Path, model: Any) -> tuple[Any, str]:
    """What to compare on: the run's own validation split where it is still there."""
    from jaxgpt.chat.export import conversations, random_sequences
    from jaxgpt.evaluate.perplexity import open_pages
    from jaxgpt.train.run import CONFIG, read_config

    if (folder / CONFIG).is_file():
        data = read_config(folder)["data"]
        if (Path(data["path"]) / "manifest.json").is_file():
            pages = open_pages(model, Path(data["path"]), data["valid_split"])
            return conversations(pages), f"the first sequences of {data['path']}, split {data['valid_split']}"
    return random_sequences(model), "random ids, since the run's pages are not at hand"


def chat(arguments: list[str]) -> None:
    """Talk with an exported model in the terminal.

    jaxgpt chat --model runs/mine/hf
    jaxgpt chat --model runs/mine/hf --prompt "hello, how are you?"
    """
    from jaxgpt.chat.decoding import Decoding

    parser = _parser("chat", chat.__doc__ or "")
    parser.add_argument("--model", type=str, required=True, help="a folder that `jaxgpt export` made")
    parser.add_argument("--prompt", type=str | None, default=None, help="say this, print the reply and leave")
    parser.add_class_arguments(Decoding)
    parser.add_argument("--json", action="store_true", help="with --prompt: print the exchange as JSON")
    args = parse(parser, arguments)
    decoding = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})

    from jaxgpt.chat.bot import Bot, talk

    bot = Bot(Path(args.model), decoding)
    if args.prompt is None:
        talk(bot)
        return
    if not args.prompt.strip():
        raise UserError("--prompt is empty; say something, or leave it out to talk")
    reply = bot.reply(args.prompt, lambda piece: print(piece, end="", flush=True))
    print()
    if args.json:
        print_json({"prompt": args.prompt, "reply": reply})


def demo(arguments: list[str]) -> None:
    """Everything on this machine with real dialogue: pages, training, perplexity, export, a bot.

    jaxgpt demo
    """
    parser = _parser("demo", demo.__doc__ or "")
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


def inspect(arguments: list[str]) -> None:
    """Show what a folder of pages holds, its first rows as text, and whether every byte is right.

    jaxgpt inspect data/pages --split valid --rows 5
    jaxgpt inspect data/pages --verify                # reads everything; exit code 1 where something is damaged
    """
    parser = _parser("inspect", inspect.__doc__ or "")
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


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "perplexity": perplexity,
    "export": export,
    "chat": chat,
    "inspect": inspect,
    "demo": demo,
}
