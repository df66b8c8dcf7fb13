"""`jaxgpt experiment`."""

from pathlib import Path

from jaxgpt.command import make_parser, parse, print_json
from jaxgpt.errors import UserError

_TRAIN = "--train."


def experiment(arguments: list[str]) -> None:
    """An experiment of an earlier system, from its raw data to a table: PersuasionForGood, CamRest676, MultiWOZ.

    jaxgpt experiment --config configs/experiments/camrest.yaml --raw data/camrest
    jaxgpt experiment --config configs/experiments/persuasion.yaml --train.train.max_steps 100
    """
    from jaxgpt.experiments.config import EXPERIMENTS, Experiment, check_train_options, kind_of

    own, train_options = _without_train_options(arguments)
    config = _config_of(own)
    kind: type[Experiment] = kind_of(Path(config)) if config is not None else Experiment
    parser = make_parser("experiment", experiment.__doc__ or "")
    parser.add_argument("--config", action="config", help="YAML file of an experiment, with any of the options below")
    parser.add_class_arguments(kind)
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    if config is None and not {"-h", "--help"} & set(own):
        raise UserError("--config is missing; the experiments are configs/experiments/*.yaml")
    args = parse(parser, own)
    cfg = kind(**{name: getattr(args, name) for name in kind.__dataclass_fields__})
    if EXPERIMENTS.get(cfg.experiment) is not kind:
        raise UserError(f"--experiment is {cfg.experiment}, but {config} is of another; give that one's configuration")

    check_train_options(*(name[2:].partition("=")[0] for name in train_options if name.startswith("--")))

    from jaxgpt.evaluate.packages import check_packages
    from jaxgpt.experiments.prepare import prepare
    from jaxgpt.experiments.running import run_experiment

    check_packages("jaxgpt experiment", "sacrebleu")
    report = run_experiment(cfg, prepare(cfg), train_options)
    if args.json:
        print_json(report)


def _without_train_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of the experiment, and those of `jaxgpt train`, which stand here behind `--train.`."""
    own, of_train = list[str](), list[str]()
    place = 0
    while place < len(arguments):
        name = arguments[place]
        if not name.startswith(_TRAIN):
            own.append(name)
        else:
            of_train.append(f"--{name.removeprefix(_TRAIN)}")
            value = arguments[place + 1 : place + 2]
            if "=" not in name and value and not value[0].startswith("--"):
                place += 1
                of_train += value
        place += 1
    return own, of_train


def _config_of(arguments: list[str]) -> str | None:
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return None
