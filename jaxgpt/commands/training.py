"""`jaxgpt train`."""

import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgpt.backend import set_flags
from jaxgpt.command import make_parser, parse, print_json, run

if TYPE_CHECKING:
    from jaxgpt.config import Config
    from jaxgpt.train.loop import Outcome


def train(arguments: list[str]) -> None:
    """Train a GPT-2, or go on with a run that exists.

    jaxgpt train --config configs/gpt2_small.yaml --output runs/mine
    jaxgpt train --output runs/mine                   # goes on with its own configuration
    """
    from jaxgpt.config import Config

    parser = make_parser("train", train.__doc__ or "")
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(Config)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON in the last line")
    args = parse(parser, with_own_config(arguments))
    cfg = Config(**{name: getattr(args, name) for name in Config.__dataclass_fields__})

    set_flags(cfg.train.xla_flags)
    outcome = _train(cfg)
    if args.json:
        print_json({"run": cfg.output, **asdict(outcome)})
    if outcome.stopped_by is not None:
        raise SystemExit(128 + outcome.stopped_by)
    if not args.json and outcome.first_host:
        print(f"{cfg.output} is trained: {outcome.step} steps; jaxgpt export {cfg.output} --output {cfg.output}/hf")


def _train(cfg: "Config") -> "Outcome":
    import jax

    from jaxgpt.train.loop import train

    try:
        return train(cfg)
    except BaseException as error:
        if not (jax.distributed.is_initialized() or isinstance(error, KeyboardInterrupt)):
            raise
        # JAX would not let this process go, nor the others, before it has waited for all of them for minutes. Python
        # would wait for a checkpoint that is being written, and whoever insists on leaving does not want to.
        code = _report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _report(error: BaseException) -> int:
    """Says what the command would have said of the error, and its exit code."""

    def again() -> None:
        raise error

    try:
        run(again)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    return 1


def with_own_config(arguments: list[str]) -> list[str]:
    """An existing run's own configuration comes first where no other is given."""
    if any(argument.split("=")[0] == "--config" for argument in arguments):
        return arguments
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        output = value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""
        if name == "--output" and (Path(output) / "config.yaml").is_file():
            return ["--config", str(Path(output) / "config.yaml"), *arguments]
    return arguments
