"""What the first process knows, for all processes of a run. Each function must be entered by all of them.

With one process nothing is sent and no error is changed.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgpt.errors import UserError

T = TypeVar("T")


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives on the first process, as JSON has it. Where it fails, all raise: a UserError on the others."""
    if jax.process_count() == 1:
        return make()
    message: dict[str, Any] = {}
    failure = None
    if jax.process_index() == 0:
        try:
            message = {"made": make()}
        except Exception as error:  # the others wait for an answer, whatever went wrong
            failure = error
            message = {"error": str(error) if isinstance(error, UserError) else f"host 0: {_in_words(error)}"}
    answer = json.loads(_text_from_first(json.dumps(message)))
    if failure:
        raise failure
    if "error" in answer:
        raise UserError(answer["error"])
    made: T = answer["made"]
    return made


def on_all(make: Callable[[], T]) -> T:
    """What `make` gives on this process. Where it fails on any of them, all raise: the others a UserError.

    make: has no part that all processes enter together.
    """
    if jax.process_count() == 1:
        return make()
    made, failure = None, None
    try:
        made = make()
    except Exception as error:  # the others wait
        failure = error
    problem = "" if failure is None else _in_words(failure)
    told = [f"host {host}: {text}" for host, text in enumerate(_texts_of_all(problem)) if text]
    if failure:
        raise failure
    if told:
        raise UserError("; ".join(told))
    return made  # type: ignore[return-value]  # it did not fail


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"failed with {error!r}; see its output"


def _text_from_first(text: str) -> str:
    """`text` of the first process; that of the others does not matter."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    room = np.zeros(_rounded(size), np.uint8)
    room[: min(size, content.size)] = content[:size]
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(room))[:size]).decode()


def _texts_of_all(text: str) -> list[str]:
    """Each process's text, by its number."""
    content = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(content.size)))
    room = np.zeros(_rounded(int(sizes.max())), np.uint8)
    room[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(room))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def _rounded(size: int) -> int:
    """The next power of two: every size of an array is compiled anew."""
    return 1 << max(size - 1, 0).bit_length()


def arrays_from_first(tree: Any, like: Any) -> Any:
    """The first process's arrays on all of them, placed as the shapes in `like` are, bit for bit.

    tree: of jax or numpy arrays in the structure of `like`; None on the other processes. One array after the other is
    sent and let go, so whoever keeps no other reference to `tree` never has more than one array twice.
    """
    change = _put if jax.process_count() == 1 else _put_from_first
    leaves = [None] * len(jax.tree.leaves(like)) if tree is None else jax.tree.leaves(tree)
    del tree
    return _one_by_one(change, leaves, like)


def place(tree: Any, like: Any) -> Any:
    """Arrays that this process has whole, placed as the shapes in `like` are; jax arrays are there already."""
    leaves = jax.tree.leaves(tree)
    del tree
    return _one_by_one(_put, leaves, like)


def _one_by_one(change: Callable[[Any, Any], jax.Array], leaves: list[Any], like: Any) -> Any:
    """`change` of each leaf and its shape; a leaf is let go before the next one's turn."""
    wanted, structure = jax.tree.flatten(like)
    for number, shape in enumerate(wanted):
        leaves[number] = change(leaves[number], shape)
    return jax.tree.unflatten(structure, leaves)


def _put(leaf: Any, wanted: Any) -> jax.Array:
    if isinstance(leaf, jax.Array):
        return leaf
    whole = np.asarray(leaf)
    if wanted.sharding is None:
        return jax.device_put(whole)
    return jax.make_array_from_callback(whole.shape, wanted.sharding, lambda index: whole[index])


def _put_from_first(leaf: Any, wanted: Any) -> jax.Array:
    dtype = np.dtype(wanted.dtype)
    # As integers: the arrays of all processes are added up, and -0.0 + 0.0 is 0.0.
    words = {1: np.uint8, 2: np.uint16, 4: np.uint32}[dtype.itemsize]
    mine = np.zeros(wanted.shape, dtype) if leaf is None else np.ascontiguousarray(leaf)
    sent = multihost_utils.broadcast_one_to_all(mine.reshape(-1).view(words))
    return _put(np.asarray(sent).view(dtype).reshape(wanted.shape), wanted)


def same_on_all(what: str, value: str) -> None:
    """UserError, the same on all processes, that says who has which value, unless all have the same."""
    if jax.process_count() == 1:
        return
    hosts: dict[str, list[str]] = {}
    for host, found in enumerate(_texts_of_all(value)):
        hosts.setdefault(found, []).append(str(host))
    if len(hosts) > 1:
        listed = "; ".join(f"{found} on host {', '.join(numbers)}" for found, numbers in hosts.items())
        raise UserError(f"{what} differs between the hosts: {listed}; make it the same and start all of them again")
