"""Trees of arrays on the disk, through Orbax: a file per array with its plain bytes, whatever devices it came from.

In a job of several processes only the first one calls this, so Orbax is told that it is alone.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import type_handlers

from jaxgpt.errors import UserError
from jaxgpt.train.seal import DamagedError

Tree = TypeVar("Tree")

_ALONE = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="first_process"
)


def host_copy(tree: Tree) -> Tree:
    """numpy arrays of their own: a step that uses the devices' buffers up does not touch them."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return jax.tree.map(_host_copy, tree)


def _host_copy(leaf: jax.Array | np.ndarray) -> np.ndarray:
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    # From an accelerator or put together from parts it is a copy anyway; else it is the device's buffer itself.
    is_buffer = leaf.is_fully_replicated and next(iter(leaf.devices())).platform == "cpu"
    return np.array(leaf) if is_buffer else np.asarray(leaf)


def write_arrays(folder: Path, tree: Any) -> None:
    """numpy arrays into a new folder, of which nothing is there if this fails."""
    # Orbax logs every failed write with a traceback per thread, and then raises it as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    handler = ocp.PyTreeCheckpointHandler(
        # Else every array would be compressed in memory, or copied, before the first one is written.
        use_ocdbt=False,
        use_compression=False,
        save_concurrent_gb=1,
        type_handler_registry=type_handlers.create_type_handler_registry(
            (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False))
        ),
        multiprocessing_options=_ALONE,
    )
    with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def read_arrays(folder: Path, like: Tree, renamed: Callable[[str], str | None] = lambda name: name) -> Tree:
    """numpy arrays in the tree of the shapes in `like`.

    renamed: an array's name on the disk (its path, joined by dots) -> its name in `like`, None if it is not wanted.
    DamagedError where the files can't be read; UserError where they hold other arrays than `like`.
    """
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=1, multiprocessing_options=_ALONE)
    try:
        there = handler.metadata(epath.Path(folder.absolute())).tree
        _check_fits(folder, {renamed(name): leaf for name, leaf in _by_name(there)}, dict(_by_name(like)))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), there)
        with ocp.Checkpointer(handler, multiprocessing_options=_ALONE) as checkpointer:
            saved = checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a file with any byte changed can make Orbax raise anything
        raise DamagedError(f"{folder} can't be read ({short(error)})") from error
    found = {renamed(name): leaf for name, leaf in _by_name(saved)}
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name, _ in _by_name(like)])


def short(error: Exception) -> str:
    """An error in one line; of a long one the beginning and the end."""
    text = " ".join(str(error).split("[source locations=")[0].split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"


def _by_name(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their names, which are the same for tuples, lists, dictionaries and named tuples."""

    def part(key: Any) -> str:
        return str(next(getattr(key, kind) for kind in ("key", "name", "idx") if hasattr(key, kind)))

    return [(".".join(map(part, path)), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _check_fits(folder: Path, there: dict[str | None, Any], wanted: dict[str | None, Any]) -> None:
    there.pop(None, None)
    for name in [*wanted, *there]:
        found, leaf = (_described(arrays.get(name)) for arrays in (there, wanted))
        if found != leaf:
            raise UserError(
                f"{folder} has {found} for {name}, the configuration wants {leaf}; set model and optimizer back to "
                "what the run was trained with, or give a new output folder"
            )


def _described(leaf: Any) -> str:
    return "no array" if leaf is None else f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"
