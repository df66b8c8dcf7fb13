"""`jaxgpt doctor`."""

from jaxgpt.checks import require
from jaxgpt.command import make_parser, parse, print_json
from jaxgpt.commands.training import with_own_config

_OWN = ("--bucket", "--all_hosts", "--wait", "--json")
_PATH, _PARALLEL = "--data.path", "--parallel."  # options of a run, which alone do not ask for all that a run needs


def doctor(arguments: list[str]) -> None:
    """Say whether all that a training needs is here and works, a line each, with the way out where it is not.

    jaxgpt doctor
    jaxgpt doctor --config configs/gpt2_small_v3_128.yaml --data gs://BUCKET/pages --bucket gs://BUCKET/runs
    jaxgpt doctor --config configs/gpt2_small_v3_128.yaml --all_hosts      # on every host at the same time
    """
    from jaxgpt.config import Config
    from jaxgpt.doctor.examine import Asked, examine

    parser = make_parser("doctor", doctor.__doc__ or "")
    parser.add_argument("--config", action="config", help="YAML file with any of the options of `jaxgpt train`")
    parser.add_class_arguments(Config)
    parser.set_defaults({"output": "."})
    parser.add_argument(
        "--bucket", type=str | None, default=None, help="gs://BUCKET/FOLDER, or a folder, that will be written to"
    )
    parser.add_argument(
        "--all_hosts",
        action="store_true",
        help="call the roll of all hosts, each of which runs this, and compute on all",
    )
    parser.add_argument("--wait", type=int, default=30, help="seconds to wait for the other hosts")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON in the last line")
    arguments = [_PATH + argument.removeprefix("--data") if _is_data(argument) else argument for argument in arguments]
    args = parse(parser, with_own_config(arguments))
    require(args.wait > 0, f"--wait is {args.wait}; it must be above 0 seconds")
    require(args.bucket != "", "--bucket is empty; give gs://BUCKET/FOLDER, or a folder")
    require(args.data.path != "", "data.path is empty; give a folder of pages, or gs://BUCKET/FOLDER")
    names = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    of_run = {name for name in names if name not in _OWN and not name.startswith(_PARALLEL)}
    asked = Asked(
        Config(**{name: getattr(args, name) for name in Config.__dataclass_fields__}),
        has_config=bool(of_run - {_PATH}),
        has_data=bool(of_run),
        bucket=args.bucket,
        all_hosts=args.all_hosts,
        wait=args.wait,
    )
    lines = []
    for line in examine(asked):
        print(line, flush=True)
        lines.append(line)
    well = all(line.level != "fail" for line in lines)
    if args.json:
        print_json({"checks": [line._asdict() for line in lines], "ok": well})
    if not well:
        raise SystemExit(1)


def _is_data(argument: str) -> bool:
    """--data PATH is short for --data.path PATH; that a whole section may come from a file is of no use here."""
    return argument.partition("=")[0] == "--data"
