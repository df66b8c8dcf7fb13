"""A model by its folder: a run, or what `jaxgpt export` made of one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.data.manifest import TOKENIZER_FOLDER
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model import convert
from jaxgpt.model.gpt2 import Params, init_params
from jaxgpt.train import checkpoint, run


@dataclass(frozen=True)
class Model:
    """Parameters with everything that text needs to become their input. step: None for an exported folder."""

    cfg: ModelConfig
    params: Params
    tokenizer: Tokenizer
    dialogue_format: str | None
    step: int | None


def load_model(folder: Path, step: int | None = None) -> Model:
    """step: which checkpoint of a run; None means the one with the lowest validation loss."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give a run or a folder that `jaxgpt export` made")
    return _load_run(folder, step) if (folder / run.CONFIG).is_file() else _load_export(folder)


def _shapes(cfg: ModelConfig) -> Params:
    return jax.eval_shape(partial(init_params, cfg, 0))


def _load_run(folder: Path, step: int | None) -> Model:
    cfg = run.read_model_config(folder)
    done = checkpoint.steps(folder)
    if step is not None and step not in done:
        raise UserError(f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, done)) or 'none'}")
    chosen = checkpoint.best_step(folder) if step is None else step
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), _shapes(cfg))
    params = checkpoint.restore_params(folder, chosen, like)
    state = checkpoint.read_run_state(folder, chosen)
    tokenizer = load_tokenizer(str(folder / TOKENIZER_FOLDER))
    return Model(cfg, params, tokenizer, state.dialogue_format, chosen)


def _load_export(folder: Path) -> Model:
    cfg, content = convert.read_hf_config(folder)
    params = convert.read_hf_weights(folder, cfg, _shapes(cfg))
    return Model(cfg, params, load_tokenizer(str(folder)), content.get("dialogue_format"), None)
