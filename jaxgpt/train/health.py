"""Do all devices hold the same parameters, compute correctly and keep up? Asked before step 1 and now and then.

A device that computes wrongly makes no error, only a model that learns worse and hosts that drift apart.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.errors import UserError
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.step import TrainState

_AXIS = "own"  # this host's devices
_SLOW = 2.0  # times the median
_SIZE = 512  # of the matrices
_ROUNDS = {"cpu": 1}  # products that are timed, so that they take some milliseconds
_ROUNDS_ELSEWHERE = 500
_NAMED = 8  # devices in a message
_WAY_OUT = "make sure that all devices work; the same command goes on from the last checkpoint"


class _Row(NamedTuple):
    """What is known of one device, as 32-bit numbers. wrong: entries of the product; time: microseconds."""

    device: int
    check_sum: int
    wrong: int
    time: int


def sum_of_words(tree: Any) -> jax.Array:
    """A check-sum of all numbers in a tree of arrays of at most 32 bits a number; uint32 scalar, for use under jit.

    Each number's bits are mixed and the results are added up, modulo 2³², so the order and how arrays are cut up or
    stacked make no difference. Source of the mixing: the finalizer of MurmurHash3 (Austin Appleby, public domain).
    """
    return sum((_mixed(leaf).sum(dtype=jnp.uint32) for leaf in jax.tree.leaves(tree)), jnp.zeros((), jnp.uint32))


def _mixed(leaf: jax.Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    word = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    word ^= jnp.uint32(0x9E3779B9)  # the finalizer takes 0 to 0, so that zeros could come and go
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


_sum_of_leaf = jax.jit(sum_of_words)


def check_sum(tree: Any) -> int:
    """`sum_of_words` of arrays anywhere; where they are cut up over several hosts, every host must call it."""
    # A program per shape of a leaf, not one for all: that compiles sooner and, on CPUs, runs in half the time. Each is
    # waited for, because CPUs can lock up over many programs at once whose devices wait for each other.
    return sum(int(_sum_of_leaf(leaf)) for leaf in jax.tree.leaves(tree)) % 2**32


def check_devices(parallel: Parallel, state: TrainState, say: Callable[[str], None]) -> int:
    """The check-sum of the parameters, on which all devices agree: of those that each device has whole.

    Every host must call it. say: is told of devices that take more than twice the median's time for the same work.
    Raises UserError, the same on all hosts, that names the devices that differ from most or compute wrongly, or hosts
    with another number of devices.
    """
    _check_counts(parallel.devices)
    own = [device for device in parallel.devices if device.process_index == jax.process_index()]
    of_own = np.array(list(zip(*_own_columns(own, state.params), strict=True)), np.uint32)
    table = np.asarray(multihost_utils.process_allgather(of_own)).reshape(-1, len(_Row._fields))
    by_id = {device.id: device for device in parallel.devices}
    rows = {by_id[row.device]: row for row in (_Row(*map(int, values)) for values in table)}
    for line in _slow(rows):
        say(line)
    problems = [*_different(rows), *_wrong(rows)]
    if problems:
        raise UserError(f"{'; '.join(problems)}; {_WAY_OUT}")
    return next(iter(rows.values())).check_sum


def _check_counts(devices: list[jax.Device]) -> None:
    """The hosts' tables must be of one size before they can be put together."""
    counts = Counter(device.process_index for device in devices)
    usual = Counter(counts.values()).most_common(1)[0][0]
    odd = [f"host {host} has {count} devices" for host, count in sorted(counts.items()) if count != usual]
    if odd:
        raise UserError(f"{', '.join(odd)}, the others have {usual}; {_WAY_OUT}")


def _own_columns(own: list[jax.Device], params: Any) -> tuple[Any, ...]:
    """The columns of the table, as in _Row."""
    add, count_wrong = _programs(tuple(own))
    mesh = Mesh(np.array(own), (_AXIS,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    sums = jax.device_put(np.zeros(len(own), np.uint32), NamedSharding(mesh, PartitionSpec(_AXIS)))
    for leaf in jax.tree.leaves(params):
        if leaf.sharding.is_fully_replicated:
            copies = {shard.device: shard.data for shard in leaf.addressable_shards}
            sums = add(
                sums,
                jax.make_array_from_single_device_arrays(leaf.shape, everywhere, [copies[device] for device in own]),
            )
    matrix, product = _matrix(), _product()
    wrong = count_wrong(*jax.device_put((matrix, product), everywhere))
    sums, wrong = jax.device_get((sums, wrong))  # the devices are idle from here on
    return [device.id for device in own], sums, wrong, [_microseconds_alone(device) for device in own]


@lru_cache
def _programs(own: tuple[jax.Device, ...]) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """(sums, leaf) -> sums, and (matrix, product) -> wrong entries: a number per device, each from its own copies."""
    mapped = partial(jax.shard_map, mesh=Mesh(np.array(own), (_AXIS,)), out_specs=PartitionSpec(_AXIS), check_vma=False)
    each, same = PartitionSpec(_AXIS), PartitionSpec()
    add = mapped(lambda sums, leaf: sums + sum_of_words(leaf), in_specs=(each, same))
    count_wrong = mapped(lambda a, product: jnp.sum(a @ a.T != product, dtype=jnp.uint32)[None], in_specs=(same, same))
    return jax.jit(add), jax.jit(count_wrong)


@lru_cache
def _matrix() -> np.ndarray:
    """(_SIZE, _SIZE) integers of 6 bits as float32: products and sums are exact, in any order and also in bfloat16."""
    return np.random.RandomState(0).randint(-32, 32, (_SIZE, _SIZE)).astype(np.float32)


@lru_cache
def _product() -> np.ndarray:
    return _matrix() @ _matrix().T


def _microseconds_alone(device: jax.Device) -> int:
    """The best of three times for the same work, while no other device of this host has any."""
    matrix = jax.device_put(_matrix() / 32, device)
    rounds = _ROUNDS.get(device.platform, _ROUNDS_ELSEWHERE)
    _work(matrix, rounds).block_until_ready()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        _work(matrix, rounds).block_until_ready()
        times.append(time.perf_counter() - began)
    return max(1, round(min(times) * 1e6))


@partial(jax.jit, static_argnums=1)
def _work(matrix: jax.Array, rounds: int) -> jax.Array:
    # Clipped, so that numbers neither overflow nor fade into those that are slow to compute with.
    return jax.lax.fori_loop(0, rounds, lambda _, x: jnp.clip(x @ matrix, -1, 1), matrix)


def _names(devices: list[jax.Device]) -> str:
    names = [f"device {device.id} ({device.device_kind}, of host {device.process_index})" for device in devices]
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)


def _slow(rows: dict[jax.Device, _Row]) -> list[str]:
    usual = median(row.time for row in rows.values())
    return [
        f"{_names([device])} is slow: {row.time / 1e3:.1f} ms for what takes the median device {usual / 1e3:.1f} ms; "
        "make sure that it works and that nothing else uses it"
        for device, row in rows.items()
        if row.time > _SLOW * usual
    ]


def _different(rows: dict[jax.Device, _Row]) -> list[str]:
    holders: dict[int, list[jax.Device]] = {}
    for device, row in rows.items():
        holders.setdefault(row.check_sum, []).append(device)
    (first, most), *others = sorted(holders.items(), key=lambda held: -len(held[1]))
    if others and len(most) == len(others[0][1]):
        groups = ", ".join(f"{_names(devices)}: check-sum {value:08x}" for value, devices in holders.items())
        return [f"the devices hold different parameters, {groups}"]
    return [
        f"{_names(devices)}: holds other parameters (check-sum {value:08x}) than most devices ({first:08x})"
        for value, devices in others
    ]


def _wrong(rows: dict[jax.Device, _Row]) -> list[str]:
    return [
        f"{_names([device])}: computes {row.wrong} of {_SIZE**2} entries of a matrix product wrongly"
        for device, row in rows.items()
        if row.wrong
    ]
