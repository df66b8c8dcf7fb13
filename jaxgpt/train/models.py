"""A model by its name: a run, an import, a Hugging Face folder or hub name, or a file of weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from jaxgpt.data.dialogue import FORMATS
from jaxgpt.data.manifest import TOKENIZER_FOLDER
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.hf_config import FILE as HF_CONFIG
from jaxgpt.model.source import Source, check_vocabulary, open_source, source_tokenizer
from jaxgpt.model.stack import Params, is_stacked
from jaxgpt.model_config import ModelConfig
from jaxgpt.train import checkpoint, run
from jaxgpt.train.share import place


@dataclass(frozen=True)
class Model:
    """Parameters with everything that text needs to become their input. step: None where it is not that of a run."""

    cfg: ModelConfig
    params: Params
    tokenizer: Tokenizer
    dialogue_format: str | None
    step: int | None


@dataclass(frozen=True)
class FoundModel:
    """A model whose parameters are not read yet.

    read: shapes with places, in either layout of the layers -> the parameters there; tokenizer: None where the files
    have none; assumed: what the files do not say, a sentence each; source: None for a run.
    """

    name: str
    cfg: ModelConfig
    tokenizer: Tokenizer | None
    dialogue_format: str | None
    step: int | None
    read: Callable[[Params], Params]
    assumed: tuple[str, ...] = ()
    source: Source | None = None

    def cut_to(self, vocab_size: int) -> "FoundModel":
        """Without rows of the vocabulary that are only padding; the same where there are none."""
        return self if self.source is None else from_source(self.name, self.source.cut_to(vocab_size), self.tokenizer)


def load_model(name: str | Path, step: int | None = None) -> Model:
    """The parameters on the first device. step: of a run; None means the one with the lowest validation loss."""
    return load_found(find_model(str(name), step))


def load_found(found: FoundModel, tokenizer: Tokenizer | None = None) -> Model:
    """tokenizer: instead of the model's own."""
    tokenizer = tokenizer or found.tokenizer
    if tokenizer is None:
        raise UserError(
            f"{found.name} has no tokenizer; name the one that it was trained with and use the outcome: "
            f"jaxgpt import {found.name} --tokenizer NAME --output DIR"
        )
    return Model(found.cfg, found.read(on_one_device(found.cfg)), tokenizer, found.dialogue_format, found.step)


def find_model(name: str, step: int | None = None) -> FoundModel:
    """UserError where the name leads to no model, or to files that are not whole; no weights are read."""
    if run.holds_run(Path(name)):
        return _find_run(Path(name), step)
    if step is not None:
        raise UserError(f"{name} is no run, so it has no checkpoint of step {step}; leave --step out")
    source = open_source(name)
    return from_source(name, source, source_tokenizer(source))


def on_one_device(cfg: ModelConfig) -> Params:
    """Shapes of the parameters, placed on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), param_shapes(cfg))


def _find_run(folder: Path, step: int | None) -> FoundModel:
    cfg = run.read_model_config(folder)
    done = checkpoint.steps(folder)
    if step is not None and step not in done:
        raise UserError(f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, done)) or 'none'}")
    chosen = checkpoint.best_step(folder) if step is None else step
    return FoundModel(
        str(folder),
        cfg,
        load_tokenizer(str(folder / TOKENIZER_FOLDER)),
        checkpoint.read_run_state(folder, chosen).dialogue_format,
        chosen,
        lambda like: checkpoint.restore_params(folder, chosen, like),
    )


def from_source(name: str, source: Source, tokenizer: Tokenizer | None) -> FoundModel:
    """A model from outside. UserError where it has fewer ids than the tokenizer."""
    if tokenizer:
        check_vocabulary(name, source, tokenizer)
    dialogue_format = source.content.get("dialogue_format")
    if dialogue_format not in (None, *FORMATS):
        raise UserError(
            f"{source.path / HF_CONFIG}: dialogue_format is {dialogue_format!r}; it must be one of {', '.join(FORMATS)}"
        )

    def read(like: Params) -> Params:
        cfg = replace(source.cfg, scan_layers=is_stacked(like["h"]))
        return place(from_hf_tensors(source.tensors, cfg), like)

    return FoundModel(name, source.cfg, tokenizer, dialogue_format, None, read, source.assumed, source)
