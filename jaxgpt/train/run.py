"""A run is a folder; this decides whether one is new, goes on, or is not ours to touch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from jaxgpt.config import Config, ModelConfig
from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError
from jaxgpt.train import checkpoint
from jaxgpt.train.checkpoint import RunState

CONFIG = "config.yaml"

# Of the model's fields, those that change the parameters' shapes or meaning.
_SHAPE = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "use_token_types",
)


def open_run(cfg: Config, data_hash: str) -> RunState | None:
    """Prepares the run's folder; the newest checkpoint's state where there is one to go on from."""
    run = Path(cfg.output)
    if not _is_run(run) and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"output {run} already holds something that is no run; give a new folder")
    done = checkpoint.steps(run)
    before = checkpoint.read_run_state(run, done[-1]) if done else None
    if before:
        _check_continues(run, before, cfg, data_hash)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / CONFIG, yaml.safe_dump(asdict(cfg), sort_keys=False))
    return before


def _is_run(run: Path) -> bool:
    """Whether the folder has a config.yaml that is ours: many programs call their settings so."""
    if not (run / CONFIG).is_file():
        return False
    try:
        content = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and set(content) == set(Config.__dataclass_fields__)


def _check_continues(run: Path, before: RunState, cfg: Config, data_hash: str) -> None:
    old, new = before.config["model"], asdict(cfg.model)
    for name in _SHAPE:
        if old[name] != new[name]:
            raise UserError(
                f"{run} was trained with model.{name} {old[name]}, now it is {new[name]}; "
                "set it back, or give a new output folder"
            )
    if before.config["seed"] != cfg.seed:
        raise UserError(
            f"{run} was trained with seed {before.config['seed']}, now it is {cfg.seed}, which would change the order "
            "of its data; set it back, or give a new output folder"
        )
    if before.data != data_hash:
        raise UserError(
            f"{run} was trained on other pages than those in data.path {cfg.data.path} (manifest hash "
            f"{before.data[:12]}, now {data_hash[:12]}); set data.path back, or give a new output folder"
        )


def read_config(run: Path) -> dict[str, Any]:
    """The resolved configuration of an existing run."""
    if not _is_run(run):
        raise UserError(f"{run} is no run: it has no {CONFIG} of ours; give a folder that `jaxgpt train` made")
    content: dict[str, Any] = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    return content


def read_model_config(run: Path) -> ModelConfig:
    return ModelConfig(**read_config(run)["model"])
