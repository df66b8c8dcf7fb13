"""An import: a model from outside as a run of step 0, with parameters but nothing to train on with."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import orbax.checkpoint as ocp
import yaml

from jaxgpt.config import RUN_FILE, Config, DataConfig
from jaxgpt.data.atomic import is_empty, remove_partial, write_text
from jaxgpt.data.manifest import TOKENIZER_FOLDER
from jaxgpt.errors import UserError
from jaxgpt.train import checkpoint, run
from jaxgpt.train.checkpoint import RunState
from jaxgpt.train.models import Model


def check_output(folder: Path) -> None:
    """UserError where `folder` holds anything but an import, whole or left unfinished."""
    if not folder.exists() or is_empty(folder):
        return
    if not run.is_run(folder) or (checkpoint.steps(folder) and not run.is_import(folder)) or _has_trained(folder):
        raise UserError(f"--output {folder} already holds something that is no import; give a new folder")


def _has_trained(folder: Path) -> bool:
    return any((folder / checkpoint.FOLDER).glob("*/optimizer")) or (folder / "metrics.jsonl").exists()


def write_import(model: Model, source: str, folder: Path) -> None:
    """The run's folder; an import that was there is replaced. The checkpoint appears when all of it is written."""
    check_output(folder)
    cfg = Config(output=str(folder), data=DataConfig(path=""), model=model.cfg, init_from=source)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    write_text(folder / RUN_FILE, yaml.safe_dump(asdict(cfg), sort_keys=False))
    checkpoints = folder / checkpoint.FOLDER
    if checkpoints.exists():
        shutil.rmtree(checkpoints)
    model.tokenizer.save(folder / TOKENIZER_FOLDER)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of the one-file format that is not asked for
    state = RunState(0, 0, asdict(cfg), "", model.dialogue_format)
    with ocp.CheckpointManager(
        checkpoints.absolute(),
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={
            # A file per array, some at a time: by default all of them are compressed in memory before one is written.
            "params": ocp.PyTreeCheckpointHandler(use_ocdbt=False, save_concurrent_gb=1),
            "run": ocp.JsonCheckpointHandler(),
        },
    ) as manager:
        manager.save(
            0,
            args=ocp.args.Composite(params=ocp.args.PyTreeSave(model.params), run=ocp.args.JsonSave(asdict(state))),
        )
