"""`jaxgpt experiment`: raw data to conversations to pages to a model to a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jaxgpt import valid_json
from jaxgpt.checks import require
from jaxgpt.command import make_parser, parse
from jaxgpt.config import Config
from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import Conversation
from jaxgpt.experiments.config import Experiment
from jaxgpt.experiments.pages import TRAIN, VALID, make_pages, write_conversations
from jaxgpt.steps import run_step


@dataclass(frozen=True)
class Row:
    """Of the table. here: as text; earlier: what the earlier system reports, "" where it does not."""

    figure: str
    here: str
    earlier: str = ""


@dataclass(frozen=True)
class Outcome:
    """report: everything, as JSON has it; rows: of the table; notes: sentences below it."""

    report: dict[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """measure: from the folder of the trained run to the figures."""

    train: Sequence[Conversation]
    valid: Sequence[Conversation]
    measure: Callable[[Path], Outcome]


def run_experiment(cfg: Experiment, prepared: Prepared, train_options: Sequence[str]) -> dict[str, Any]:
    """Leaves table.md and report.json in cfg.output and returns the report; a second call goes on from what is there.

    train_options: of jaxgpt train, over those of cfg.train. UserError, before anything is written, where one of them is
    wrong or the decoding does not fit the model.
    """
    output = Path(cfg.output)
    require(output.is_dir() or not output.exists(), f"output is {cfg.output}, which is a file; give a folder")
    _check_decoding(cfg, train_options)
    output.mkdir(parents=True, exist_ok=True)
    write_conversations(cfg, output, {TRAIN: prepared.train, VALID: prepared.valid})
    pages, run, config = make_pages(cfg, output), output / "run", output / "train.yaml"
    data = {**cfg.train.get("data", {}), "path": str(pages)}
    write_text(config, yaml.safe_dump({**cfg.train, "output": str(run), "data": data}, sort_keys=False))
    trained = run_step(["-m", "jaxgpt", "train", "--config", str(config), *train_options])
    found = prepared.measure(run)
    report = {
        "experiment": cfg.experiment,
        "train_dialogues": len(prepared.train),
        "valid_dialogues": len(prepared.valid),
        "steps": trained["step"],
        **found.report,
    }
    write_text(output / "report.json", valid_json.dumps(report, indent=1) + "\n")
    table = _table(cfg, report, found)
    write_text(output / "table.md", table)
    print(f"\n{table}\n{output}/table.md and {output}/report.json have this", flush=True)
    return report


def _check_decoding(cfg: Experiment, train_options: Sequence[str]) -> None:
    """UserError where it does not fit the model that is going to be trained."""
    parser = make_parser("train", "")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Config)
    options = yaml.safe_dump({**cfg.train, "output": cfg.output})
    positions = parse(parser, ["--config", options, *train_options]).model.n_positions
    cfg.decoding.check(positions, prefix="--decoding.")


def _table(cfg: Experiment, report: dict[str, Any], found: Outcome) -> str:
    lines = [
        f"# {cfg.experiment}: {report['train_dialogues']} dialogues, {report['steps']} steps",
        "",
        "| figure | here | earlier system |",
        "|---|---|---|",
        *(f"| {row.figure} | {row.here} | {row.earlier} |" for row in found.rows),
        *(("", *found.notes) if found.notes else ()),
    ]
    return "\n".join(lines) + "\n"
