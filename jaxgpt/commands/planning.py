"""`jaxgpt plan`."""

import os
from pathlib import Path
from typing import Literal

from jaxgpt.command import make_parser, parse, print_json
from jaxgpt.errors import UserError


def plan(arguments: list[str]) -> None:
    """Say whether a run fits a machine that is not there, how long it takes and what it costs; or draw its schedule.

    jaxgpt plan --config configs/gpt2_small_v3_128.yaml --topology v3:8x8
    jaxgpt plan --config configs/gpt2_small.yaml --topology gpu:h100x8 --search batch
    jaxgpt plan --config configs/gpt2_small.yaml --schedule --output schedule.png
    """
    from jaxgpt.config import Config

    parser = make_parser("plan", plan.__doc__ or "")
    parser.add_argument("--config", action="config", help="YAML file with any of the options of `jaxgpt train`")
    parser.add_class_arguments(Config, skip={"output"})
    parser.add_argument(
        "--topology", type=str | None, default=None, help="a TPU slice such as v3:8x8, gpu:h100x8, or cpu"
    )
    parser.add_argument("--dialogue", action="store_true", help="for pages of dialogue, which have segments and roles")
    parser.add_argument(
        "--search",
        type=Literal["batch"] | None,
        default=None,
        help="batch: find the largest train.batch_size that fits",
    )
    parser.add_argument(
        "--price", type=float | None, default=None, help="USD per hour and TPU chip or GPU, instead of the list price"
    )
    parser.add_argument("--schedule", action="store_true", help="draw the learning rate instead")
    parser.add_argument(
        "--output", type=str | None, default=None, help="of --schedule: the picture (png, svg, pdf); schedule.png"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON in the last line")
    args = parse(parser, arguments)
    given = {name: getattr(args, name) for name in Config.__dataclass_fields__ if name != "output"}
    cfg = Config(output="", **given)
    if args.schedule == (args.topology is not None):
        raise UserError("give either --topology MACHINE, such as v3:8x8, or --schedule")
    if args.price is not None and args.price < 0:
        raise UserError(f"--price is {args.price}; it must be 0 or more")

    # All that is compiled for is not there, and an accelerator that is there is somebody else's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if args.schedule:
        from jaxgpt.plan.curve import draw_schedule

        # The output of a configuration file is the folder of its run.
        given_here = any(argument.partition("=")[0] == "--output" for argument in arguments)
        picture = Path(args.output if given_here else "schedule.png")
        print("\n".join([*draw_schedule(cfg, picture), f"{picture} shows it"]))
        return
    from jaxgpt.plan.machines import find_machine

    machine = find_machine(args.topology)
    flags = f"--xla_force_host_platform_device_count={machine.n_devices}"
    if machine.kind == "gpu":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    from jaxgpt.plan.planning import largest_batch, make_plan
    from jaxgpt.plan.report import as_json, lines

    planned = make_plan(cfg, machine, args.dialogue, args.price)
    print("\n".join(lines(planned)), flush=True)  # a search takes minutes more
    report = as_json(planned)
    if args.search:
        report["largest_batch"] = largest_batch(planned, args.dialogue)
        print(f"\nlargest train.batch_size that fits: {report['largest_batch'] or 'none'}")
    if args.json:
        print_json(report)
