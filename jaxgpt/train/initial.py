"""A new run that starts with the parameters of another model (`init_from`)."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax

from jaxgpt.config import Config
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import FoundModel, find_model
from jaxgpt.train.run import SHAPE
from jaxgpt.train.step import TrainState, init_state

# Fields of the shape that may grow, shrink or begin; see _differing. The others must be the same.
_MAY_DIFFER = ("vocab_size", "n_positions", "use_token_types", "use_role_table")
_VOCABULARY = ("wte", "lm_head")


def find_initial(cfg: Config, name: str, tokenizer: Tokenizer) -> FoundModel:
    """The model to start from, whose parameters fit `cfg`. tokenizer: that of the pages.

    UserError lists each field that differs with the option that makes it fit, and tokens whose ids differ.
    """
    found = find_model(name).cut_to(cfg.model.vocab_size)
    differing = _differing(found.cfg, cfg.model)
    if differing:
        there, here = _fields(found.cfg), _fields(cfg.model)
        listed = "; ".join(f"model.{field} is {there[field]} there, {here[field]} here" for field in differing)
        options = " ".join(f"--model.{field} {_as_option(there[field])}" for field in differing)
        raise UserError(f"init_from {name} is of another shape: {listed}; pass {options}")
    if found.tokenizer:
        _check_same_ids(name, found.tokenizer, tokenizer)
    return found


def _fields(cfg: ModelConfig) -> dict[str, Any]:
    return {**asdict(cfg), "n_inner": cfg.mlp_width}


def _differing(source: ModelConfig, cfg: ModelConfig) -> list[str]:
    """More ids, fewer positions and roles that the source did not have are no difference."""
    there, here = _fields(source), _fields(cfg)
    differing = [name for name in SHAPE if name not in _MAY_DIFFER and there[name] != here[name]]
    if cfg.vocab_size < source.vocab_size:
        differing.append("vocab_size")
    if cfg.n_positions > source.n_positions:
        differing.append("n_positions")
    return differing + [name for name in ("use_token_types", "use_role_table") if there[name] and not here[name]]


def _as_option(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_same_ids(name: str, source: Tokenizer, pages: Tokenizer) -> None:
    ids = pages.backend.get_vocab(with_added_tokens=True)
    differing = sorted(
        (number, token)
        for token, number in source.backend.get_vocab(with_added_tokens=True).items()
        if ids.get(token) != number
    )
    if differing:
        number, token = differing[0]
        raise UserError(
            f"init_from {name}: {len(differing)} tokens have another id in the pages, or none: the first is {token!r}, "
            f"{number} there, {ids.get(token, 'none')} here; build the pages with that model's tokenizer as --tokenizer"
        )


def initial_state(cfg: Config, found: FoundModel, like: TrainState) -> TrainState:
    """Step 0 of a new run with the parameters of `found` and a fresh optimizer, placed as the shapes in `like` are.

    Ids and roles that `found` has no rows for keep their fresh rows.
    """
    grown = [name for name in _VOCABULARY if name in like.params and cfg.model.vocab_size != found.cfg.vocab_size]
    grown += ["wre"] if "wre" in like.params and not found.cfg.use_role_table else []

    # Only what is returned is computed: no second set of parameters exists.
    def fresh() -> TrainState:
        state = init_state(cfg)
        return state._replace(params={name: state.params[name] for name in grown})

    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    of_grown = {name: places.params[name] for name in grown}
    state = jax.jit(fresh, out_shardings=places._replace(params=of_grown))()
    rows = state.params
    params = found.read(_shapes_placed(found.cfg, cfg.model, like.params))
    for name in grown:
        params[name] = _over(params.get(name), rows[name], found.cfg.vocab_size, of_grown[name])
    positions = like.params["wpe"]["weight"]
    if params["wpe"]["weight"].shape != positions.shape:
        cut = jax.jit(lambda table: table[: cfg.model.n_positions], out_shardings=positions.sharding)
        params["wpe"]["weight"] = cut(params["wpe"]["weight"])
    return state._replace(params=params)


def _shapes_placed(source: ModelConfig, cfg: ModelConfig, like: Params) -> Params:
    """The source's shapes in the layout and at the places of the run's parameters."""
    shapes = param_shapes(replace(source, scan_layers=cfg.scan_layers))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place.sharding),
        shapes,
        {name: like[name] for name in shapes},
    )


def _over(old: Params | None, new: Params, rows: int, places: Params) -> Params:
    """The first `rows` rows of a table over those of a longer one."""
    if old is None:
        return new
    put = jax.jit(partial(_put_rows, rows), out_shardings=places["weight"])
    return {"weight": put(old["weight"], new["weight"])}


def _put_rows(rows: int, old: jax.Array, new: jax.Array) -> jax.Array:
    return new.at[:rows].set(old[:rows])
