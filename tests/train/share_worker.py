"""One process of several for test_share.py: number, count, port, the first one's folder, a file for the outcome."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_states import quiet, random_state, run_state
from tiny import step_config

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.saving import Checkpoints, newest_on_all
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.share import arrays_from_first, from_first, on_all, same_on_all

LONG = "ä" * 5000


def arrays() -> dict[str, np.ndarray]:
    """With what addition would change: -0.0 and a NaN that carries a number."""
    odd = np.array([[0x80000000, 0x7FC00123], [0x00000001, 0xFF800000]] * 4, np.uint32).view(np.float32)
    return {
        "odd": odd,
        "count": np.array(-3, np.int32),
        "flags": np.array([True, False, True]),
        "half": np.array([-0.0, 1.5], ml_dtypes.bfloat16),
    }


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (UserError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def fail(error: Exception) -> None:
    raise error


def same_bits(leaf: jax.Array, whole: np.ndarray) -> bool:
    """On all of this process's devices."""
    return leaf.dtype == whole.dtype and all(
        np.asarray(shard.data).tobytes() == np.ascontiguousarray(whole[shard.index]).tobytes()
        for shard in leaf.addressable_shards
    )


def is_sent(mesh: Mesh, spec: PartitionSpec) -> bool:
    places = dict.fromkeys(arrays(), NamedSharding(mesh, PartitionSpec())) | {"odd": NamedSharding(mesh, spec)}
    like = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name]) for name, leaf in arrays().items()
    }
    found = arrays_from_first(arrays() if jax.process_index() == 0 else None, like)
    return all(same_bits(found[name], leaf) and found[name].sharding == places[name] for name, leaf in arrays().items())


def passes_through(folder: Path, mode: str) -> dict[str, object]:
    """Saves a state from the first process and restores it on all; then the newest is damaged, and then all are."""
    cfg = step_config(n_embd=40)
    parallel = Pmapped() if mode == "pmap" else Sharded(cfg.model)
    first = jax.process_index() == 0
    wholes = {step: random_state(cfg, step) for step in (1, 2)}
    checkpoints = Checkpoints(folder / mode, CheckpointConfig(), quiet) if first else None
    empty = newest_on_all(checkpoints, parallel.shapes(cfg))
    for step, whole in wholes.items():
        state = jax.tree.map(
            lambda leaf, place: jax.make_array_from_callback(leaf.shape, place.sharding, lambda index: leaf[index]),
            whole,
            parallel.shapes(cfg),
        )
        on_host = parallel.on_host(state)
        if checkpoints:
            checkpoints.save(on_host, run_state(step, cfg), {})

    def newest() -> tuple[int, bool]:
        found = newest_on_all(checkpoints, parallel.shapes(cfg))
        assert found is not None
        state, described = found
        return described.step, jax.tree.all(jax.tree.map(same_bits, state, wholes[described.step]))

    def damage(step: int) -> None:
        if first:
            (folder / mode / "checkpoints" / str(step) / "params" / "ln_f.bias" / "0").unlink()

    steps = [newest()]
    damage(2)
    steps.append(newest())
    damage(1)
    return {"empty": empty is None, "steps": steps, "error": error_of(newest)}


def main() -> None:
    index, count, port = map(int, sys.argv[1:4])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    own, everyone = (Mesh(np.array(devices), ("x",)) for devices in (jax.local_devices(), jax.devices()))
    outcome = {
        "made": from_first(lambda: {"index": index, "long": LONG, "none": None}),
        "user_error": error_of(lambda: from_first(lambda: fail(UserError(f"host {index} found nothing")))),
        "other_error": error_of(lambda: from_first(lambda: fail(KeyError("x")))),
        "all": on_all(lambda: index),
        "error_on_1": error_of(lambda: on_all(lambda: fail(UserError("no pages")) if index == 1 else None)),
        "same": error_of(lambda: same_on_all("the manifest", "abc")),
        "different": error_of(lambda: same_on_all("the manifest", "" if index == 1 else "abc")),
        "own": is_sent(own, PartitionSpec()),
        "everyone": is_sent(everyone, PartitionSpec("x")),
        "pmap": passes_through(Path(sys.argv[4]), "pmap"),
        "fsdp": passes_through(Path(sys.argv[4]), "fsdp"),
    }
    Path(sys.argv[5]).write_text(json.dumps(outcome))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
