"""A run is a folder; this decides whether one is new, goes on, or is not ours to touch."""

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from jaxgpt.config import RUN_FILE, Config
from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError
from jaxgpt.model.hf_config import FILE as HF_CONFIG
from jaxgpt.model_config import ModelConfig
from jaxgpt.train import checkpoint
from jaxgpt.train.checkpoint import FOLDER, RunState
from jaxgpt.train.remote_run import fetch_if_gone
from jaxgpt.train.seal import DamagedError

# Of the model's fields, those that change the parameters' shapes or meaning.
SHAPE = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
    "embed_dim",
    "share",
    "n_groups",
    "use_token_types",
    "use_role_table",
)
_LOCK = ".lock"
_ALWAYS = {"output", "data", "model"}  # sections of every config.yaml


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """The run's folder, made if need be, for this process alone: two would remove and cut each other's files.

    UserError where another process has it, or where it holds something that is no run.
    """
    if not is_run(run) and run.exists() and (not run.is_dir() or any(path.name != _LOCK for path in run.iterdir())):
        raise UserError(f"output {run} already holds something that is no run; give a new folder")
    run.mkdir(parents=True, exist_ok=True)
    with (run / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process of this machine or file system trains {run}; wait for it, stop it, or give another "
                "output folder"
            ) from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def open_run(cfg: Config, data_hash: str, say: Callable[[str], None] = print) -> RunState | None:
    """Prepares the run's folder, which is `claimed`; the newest checkpoint's state where there is one to go on from.

    A run whose checkpoints are gone gets the newest one of checkpoint.mirror. Files of arrays are not read here.
    """
    run = Path(cfg.output)
    # Where the hosts of this call are is no part of the run: it may go on alone.
    alone = replace(cfg.parallel, coordinator=None, num_processes=None, process_id=None)
    settings = yaml.safe_dump(asdict(replace(cfg, parallel=alone)), sort_keys=False)
    if not is_run(run):  # before anything else is in the folder, so that a fetch that fails leaves a run
        write_text(run / RUN_FILE, settings)
    if cfg.checkpoint.mirror:
        fetch_if_gone(run, cfg.checkpoint.mirror.rstrip("/"), say)
    before = _newest_readable(run)
    if before:
        _check_continues(run, before, cfg, data_hash)
    write_text(run / RUN_FILE, settings)
    return before


def _newest_readable(run: Path) -> RunState | None:
    """Of the newest checkpoint that says what it is; UserError where none does."""
    damaged = []
    for step in reversed(checkpoint.steps(run)):
        try:
            return checkpoint.read_run_state(run, step)
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"all checkpoints of {run} are damaged: {'; '.join(damaged)}; put back a good copy")
    return None


def is_run(run: Path) -> bool:
    """Whether the folder has a config.yaml that is ours: many programs call their settings so."""
    if not (run / RUN_FILE).is_file():
        return False
    try:
        content = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    # Sections that came later are missing in older runs.
    return isinstance(content, dict) and _ALWAYS <= set(content) <= set(Config.__dataclass_fields__)


def holds_run(folder: Path) -> bool:
    """Whether a folder is to be read as a run, and not as a Hugging Face folder with a config.yaml beside."""
    return (folder / RUN_FILE).is_file() and not (folder / HF_CONFIG).is_file()


def is_import(run: Path) -> bool:
    """Whether the run is what `jaxgpt import` made: parameters of step 0, without an optimizer."""
    return checkpoint.steps(run) == [0] and not (run / FOLDER / "0" / "optimizer").exists()


def _check_continues(run: Path, before: RunState, cfg: Config, data_hash: str) -> None:
    old, new = asdict(ModelConfig(**before.config["model"])), asdict(cfg.model)
    for name in SHAPE:
        if old[name] != new[name]:
            raise UserError(
                f"{run} was trained with model.{name} {old[name]}, now it is {new[name]}; "
                "set it back, or give a new output folder"
            )
    if before.config.get("init_from") != cfg.init_from:
        raise UserError(
            f"{run} began with init_from {before.config.get('init_from')}, now it is {cfg.init_from}; "
            "set it back, or give a new output folder"
        )
    if before.config["seed"] != cfg.seed:
        raise UserError(
            f"{run} was trained with seed {before.config['seed']}, now it is {cfg.seed}, which would change the order "
            "of its data; set it back, or give a new output folder"
        )
    # Runs from before there was a choice have AdamW.
    optimizer = before.config["optimizer"].get("name", "adamw")
    if optimizer != cfg.optimizer.name:
        raise UserError(
            f"{run} was trained with optimizer.name {optimizer}, now it is {cfg.optimizer.name}, which can't go on "
            f"with its state; set it back, or start a new run from it: --init_from {run} --output OTHER"
        )
    if before.data != data_hash:
        raise UserError(
            f"{run} was trained on other pages than those in data.path {cfg.data.path} (manifest hash "
            f"{before.data[:12]}, now {data_hash[:12]}); set data.path back, or give a new output folder"
        )


def read_config(run: Path) -> dict[str, Any]:
    """The resolved configuration of an existing run."""
    if not is_run(run):
        raise UserError(f"{run} is no run: it has no {RUN_FILE} of ours; give a folder that `jaxgpt train` made")
    content: dict[str, Any] = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8"))
    return content


def read_model_config(run: Path) -> ModelConfig:
    return ModelConfig(**read_config(run)["model"])
