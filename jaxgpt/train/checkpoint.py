"""A checkpoint on the disk: it gets its name when it is whole and is checked when it is read.

checkpoints/STEP/params/, optimizer/   arrays
                 run/metadata          JSON: RunState, the time, and check-sums of the arrays on the devices
                 metrics/metrics       JSON: losses, by which the best ones are chosen
                 files.json            size and CRC-32C of all these files
and, only if there was something, after that and of no part in it:
                 metrics/later         JSON: losses of a validation
                 run/way_back          JSON: where the data goes on after bad steps led back to this checkpoint
"""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params, in_layout_of
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.arrays import read_arrays, write_arrays
from jaxgpt.train.guard import new_guard
from jaxgpt.train.health import check_sum
from jaxgpt.train.retention import FOLDER, LATER_METRICS, METADATA, METRICS, WAY_BACK, Saved, parse_saved
from jaxgpt.train.seal import SEAL, DamagedError, check_seal, seal
from jaxgpt.train.share import place
from jaxgpt.train.step import TrainState

_PARAMS, _OPTIMIZER = "params", "optimizer"
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class RunState:
    """What belongs to a checkpoint beside arrays.

    position: rows of the shuffled data sequence that have been trained on; config: the run's configuration; data: hash
    of the manifest; dialogue_format: None for documents; wandb_id: of the run at Weights & Biases; rollbacks: how often
    in a row bad steps led back to this step.
    """

    step: int
    position: int
    config: dict[str, Any]
    data: str
    dialogue_format: str | None
    wandb_id: str | None = None
    rollbacks: int = 0


_WAY_BACK = ("position", "rollbacks")


def items_of(state: TrainState) -> dict[str, Any]:
    rest = {name: part for name, part in state._asdict().items() if name != "params"}
    return {_PARAMS: state.params, _OPTIMIZER: rest}


def write_checkpoint(folder: Path, items: dict[str, Any], content: dict[str, Any], metrics: dict[str, float]) -> None:
    """The folder appears when all of it is on the disk; if this fails, nothing of it stays."""
    partial = folder.with_name(f".{folder.name}.partial")
    for left in folder.parent.glob(".*.partial"):  # of a killed process, or of threads that ended after an error
        shutil.rmtree(left, ignore_errors=True)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(f"it needs {needed / 1e9:.3g} GB, of which {free / 1e9:.3g} GB are free")
    partial.mkdir(parents=True)
    try:
        for name in list(items):
            write_arrays(partial / name, items.pop(name))  # the memory of what is written is free again
        for file, values in ((METADATA, content), (METRICS, metrics)):
            (partial / file).parent.mkdir()
            write_text(partial / file, json.dumps(values))
        seal(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def add_metrics(run: Path, step: int, metrics: dict[str, float]) -> None:
    """To what a checkpoint is kept by and chosen for; what was written with it stays as it is."""
    write_text(run / FOLDER / str(step) / LATER_METRICS, json.dumps(metrics))


def add_way_back(run: Path, run_state: RunState) -> None:
    """To the checkpoint of run_state.step, where there is one: its position and rollbacks."""
    folder = run / FOLDER / str(run_state.step)
    if folder.is_dir():
        write_text(folder / WAY_BACK, json.dumps({name: getattr(run_state, name) for name in _WAY_BACK}))


def steps(run: Path) -> list[int]:
    """Steps of the run's checkpoints that were finished, ascending."""
    found = (entry.parent.parent for entry in (run / FOLDER).glob(f"*/{METADATA}"))
    return sorted(int(entry.name) for entry in found if entry.name.isdigit() and (entry / _PARAMS).is_dir())


def _content(folder: Path) -> dict[str, Any]:
    """Of a checkpoint's metadata; DamagedError where it is missing or not JSON."""
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        missing = [field for field in ("step", "position", "config", "data") if field not in content]
    except FileNotFoundError as error:
        raise DamagedError(f"{folder / METADATA} is missing") from error
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{folder / METADATA} can't be read ({error})") from error
    if missing or not isinstance(content, dict):
        raise DamagedError(f"{folder / METADATA} has no {', '.join(missing)}")
    return content


def _whole_content(folder: Path, *below: str) -> dict[str, Any]:
    """Of the metadata of a checkpoint whose files, or those in some of its folders, are what was written."""
    if (folder / SEAL).exists():
        check_seal(folder, *below)
    content = _content(folder)
    # Checkpoints from before there were seals and check-sums have neither.
    if "check_sums" in content and not (folder / SEAL).exists():
        raise DamagedError(f"{folder / SEAL} is missing")
    return content


def read_run_state(run: Path, step: int) -> RunState:
    folder = run / FOLDER / str(step)
    content = _content(folder)
    if (folder / WAY_BACK).is_file():
        try:
            later = json.loads((folder / WAY_BACK).read_text(encoding="utf-8"))
            content |= {name: int(later[name]) for name in _WAY_BACK}
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{folder / WAY_BACK} can't be read ({error})") from error
    return RunState(**{name: content[name] for name in RunState.__dataclass_fields__ if name in content})


def read_saved(run: Path, step: int) -> Saved:
    """What a checkpoint is kept by; DamagedError where its files can't be read."""
    folder = run / FOLDER / str(step)
    metadata, scores = folder / METADATA, [folder / METRICS, folder / LATER_METRICS]
    try:
        texts = [path.read_text(encoding="utf-8") for path in scores if path.is_file()]
        return parse_saved(step, metadata.read_text(encoding="utf-8"), texts, metadata.stat().st_mtime)
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{folder} can't be read ({error})") from error


def saved_model_config(run: Path, step: int) -> ModelConfig:
    """The model as it was configured when this checkpoint was written."""
    return ModelConfig(**read_run_state(run, step).config["model"])


def valid_loss(run: Path, step: int) -> float | None:
    """Of a checkpoint, nats per token; None where it was not evaluated."""
    return read_saved(run, step).metrics.get("valid_loss")


def best_step(run: Path) -> int:
    """The checkpoint with the lowest validation loss, or the newest where none was evaluated."""
    done = steps(run)
    if not done:
        raise UserError(f"{run} has no checkpoint yet; train it first with `jaxgpt train --output {run}`")
    losses = {}
    for step in done:
        with suppress(DamagedError):  # the others are as good as before
            loss = valid_loss(run, step)
            if loss is not None and not math.isnan(loss):
                losses[step] = loss
    return min(losses, key=losses.__getitem__) if losses else done[-1]


def restore_params(run: Path, step: int, like: Params) -> Params:
    """The parameters of one checkpoint, placed and laid out as the shapes in `like` are; of any process.

    Raises DamagedError where their files are not what was written.
    """
    folder = run / FOLDER / str(step)
    _whole_content(folder, _PARAMS, METADATA.partition("/")[0])
    params = _in_layout_of(like, partial(read_arrays, folder / _PARAMS), saved_model_config(run, step))
    return place(params, like)


def read_state(run: Path, step: int, like: TrainState) -> TrainState:
    """The state of one checkpoint as numpy arrays, laid out as the shapes in `like` are.

    Raises DamagedError where the files are not what was written, and UserError where `like` has other arrays.
    """
    folder = run / FOLDER / str(step)
    check_sums = _whole_content(folder).get("check_sums")
    return _in_layout_of(like, lambda stored: _read_items(folder, stored, check_sums), saved_model_config(run, step))


def _read_items(folder: Path, like: TrainState, check_sums: dict[str, int] | None) -> TrainState:
    """check_sums: None for a checkpoint from before there was a guard, when AdamW was in a chain of its own."""
    wanted = items_of(like)
    if check_sums is None:
        del wanted[_OPTIMIZER]["guard"]
    items = {
        _PARAMS: read_arrays(folder / _PARAMS, wanted[_PARAMS]),
        _OPTIMIZER: read_arrays(folder / _OPTIMIZER, wanted[_OPTIMIZER], _same if check_sums else _name_since_guard),
    }
    for name, was in (check_sums or {}).items():
        found = check_sum(items[name])
        if found != was:
            raise DamagedError(f"the arrays in {folder / name} have check-sum {found}, on the devices it was {was}")
    guard = jax.tree.map(np.asarray, new_guard())
    return TrainState(params=items[_PARAMS], **{"guard": guard, **items[_OPTIMIZER]})


def _same(name: str) -> str:
    return name


def _name_since_guard(name: str) -> str | None:
    """A schedule's count was part of the state."""
    return None if name == "opt_state.1.2.count" else name.replace("opt_state.1.0.", "opt_state.1.", 1)


def _in_layout_of(like: Tree, read: Callable[[Tree], Tree], saved: ModelConfig) -> Tree:
    """What `read` gives, with layers stacked or not as in `like`, though the checkpoint has them the other way."""
    stored = jax.eval_shape(partial(in_layout_of, saved), like)
    tree = read(stored)
    if jax.tree.structure(stored) == jax.tree.structure(like):  # type: ignore[operator]
        return tree
    return in_layout_of(replace(saved, scan_layers=not saved.scan_layers), tree)
