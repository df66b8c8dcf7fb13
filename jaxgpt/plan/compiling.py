"""The real training step, compiled for devices that need not be there."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import Config
from jaxgpt.plan.arithmetic import Product, products
from jaxgpt.train.models import find_model
from jaxgpt.train.parallel import Parallel, check_batch
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.step import STOPS


@dataclass(frozen=True)
class Step:
    """One training step, traced. memory: bytes of a device by kind, of what goes in; products: of a device."""

    memory: dict[str, int]
    products: list[Product]
    traced: jax.stages.Traced


@dataclass(frozen=True)
class TooLarge:
    """What the compiler said of a step that does not fit. over: bytes of a device that are missing."""

    over: int
    message: str


@dataclass(frozen=True)
class Compiled:
    """memory: bytes of a device by kind, all of them; bytes_moved: from and to memory, a loop's body counted once.

    seconds: the compiler's estimate, a loop's body counted once; None where it gives none. text: the program.
    """

    memory: dict[str, int]
    bytes_moved: float
    seconds: float | None
    text: str


def trace_step(cfg: Config, devices: list[jax.Device], dialogue: bool) -> Step:
    """The step of `jaxgpt train` for cfg's batches on these devices. dialogue: batches have segments and roles."""
    check_batch(len(devices), cfg.train.batch_size, cfg.train.microbatches)
    parallel: Parallel = Pmapped(devices) if cfg.parallel.mode == "pmap" else Sharded(cfg.model, devices)
    mesh = Mesh(np.array(devices), ("devices",))
    state: Any = parallel.shapes(cfg)
    reference = _reference(cfg)
    like: Any = parallel.param_shapes(reference) if reference else None
    if cfg.parallel.mode == "pmap":  # whose shapes are placed on the devices of one host
        everywhere = NamedSharding(mesh, PartitionSpec())
        state, like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), (state, like)
        )
    batch = _batch(cfg, mesh, dialogue)
    step = parallel.train_step(cfg, reference)
    traced = jax.jit(step, donate_argnums=0).trace(*((state, batch, like) if reference else (state, batch)))
    memory = {
        "parameters": _bytes(state.params),
        "optimizer state": _bytes(state.opt_state),
        **({"reference model": _bytes(like)} if reference else {}),
        "batch": _bytes(batch),
    }
    return Step(memory, products(traced.jaxpr.jaxpr, len(devices)), traced)


def _reference(cfg: Config) -> Any:
    """The shape of loss.kl_model, where there is one."""
    return find_model(cfg.loss.kl_model).cut_to(cfg.model.vocab_size).cfg if cfg.loss.kl_model else None


def _batch(cfg: Config, mesh: Mesh, dialogue: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch as the loop gives it to the step."""
    rows, n_devices = cfg.train.batch_size, mesh.size
    split = NamedSharding(mesh, PartitionSpec("devices"))
    mapped = cfg.parallel.mode == "pmap"

    def shape(n: int, *rest: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        leading = (n_devices, n // n_devices) if mapped else (n,)
        return jax.ShapeDtypeStruct((*leading, *rest), dtype, sharding=split)

    n_tokens = cfg.data.seq_len or cfg.model.n_positions
    ids = ("input_ids", "targets", *(("segments", "positions", "roles") if dialogue else ()))
    return {
        **{name: shape(rows, n_tokens) for name in ids},
        "weights": shape(rows, n_tokens, dtype=jnp.float32),
        "rows": shape(rows),
        STOPS: shape(n_devices),
    }


def _bytes(tree: Any) -> int:
    """Of one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def compile_step(step: Step) -> Compiled | TooLarge:
    try:
        compiled = step.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if not message.startswith("RESOURCE_EXHAUSTED"):
            raise
        return TooLarge(_missing(message), message.splitlines()[0])
    analysis, costs = compiled.memory_analysis(), compiled.cost_analysis()
    assert analysis is not None
    assert costs is not None
    seconds = costs.get("optimal_seconds", -1.0)
    # Tiles of TPU memory are larger than some arrays; what the program does not use does not come in at all.
    padding = analysis.argument_size_in_bytes - sum(step.memory.values())
    memory = {
        **step.memory,
        **({"padding of these": padding} if padding > 0 else {}),
        "activations and other temporaries": analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    text = compiled.as_text() or ""
    return Compiled(memory, costs["bytes accessed"], seconds if seconds > 0 else None, text)


def _missing(message: str) -> int:
    """Bytes by which a step is too large. Both ways in which the TPU compiler says so are known."""
    found = re.search(r"\(([\d.]+)([BKMGT])\) exceeds available HBM \(([\d.]+)([BKMGT])\)", message) or re.search(
        r"Used ([\d.]+)([BKMGT]) of ([\d.]+)([BKMGT]) hbm", message
    )
    if found is None:
        raise ValueError(f"the compiler has a new way of saying that a step is too large: {message}")
    used, used_unit, available, unit = found.groups()
    return round(float(used) * 1024 ** "BKMGT".index(used_unit) - float(available) * 1024 ** "BKMGT".index(unit))
