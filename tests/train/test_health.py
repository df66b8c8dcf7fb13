from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from many_processes import free_port, python, run_all
from tiny import step_config

from jaxgpt.errors import UserError
from jaxgpt.train import health
from jaxgpt.train.health import check_devices, check_sum
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.step import TrainState

CONFIG = step_config(n_embd=64, n_head=4)  # eight devices divide it


def murmur(words: np.ndarray) -> int:
    """Word by word in Python's integers: xor, then MurmurHash3's fmix32."""
    total = 0
    for word in words.ravel().tolist():
        word ^= 0x9E3779B9
        word = ((word ^ (word >> 16)) * 0x85EBCA6B) % 2**32
        word = ((word ^ (word >> 13)) * 0xC2B2AE35) % 2**32
        total += word ^ (word >> 16)
    return total % 2**32


def new_state(parallel: Parallel) -> TrainState:
    """Placed as a run's state is, with the same random numbers whatever the places."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put(random.standard_normal(leaf.shape).astype(leaf.dtype), leaf.sharding),
        parallel.shapes(CONFIG),
    )


def with_corrupt_copy(state: TrainState, device: jax.Device) -> TrainState:
    """ln_f.weight has another last bit on one device, in arrays that JAX believes to be replicated."""
    leaf = state.params["ln_f"]["weight"]
    assert leaf.sharding.is_fully_replicated

    def copy(shard: Any) -> jax.Array:
        if shard.device != device:
            return shard.data
        bits = np.asarray(shard.data).view(np.uint32).copy()
        bits[3] ^= 1
        return jax.device_put(bits.view(np.float32), device)

    copies = [copy(shard) for shard in leaf.addressable_shards]
    corrupt = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, copies)
    return state._replace(params={**state.params, "ln_f": {**state.params["ln_f"], "weight": corrupt}})


def no_line(line: str) -> None:
    """Warnings of slow devices depend on what else the machine does."""


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.float32([0.0, -0.0, 1.5, np.nan]), np.uint32),
        (np.int32([[0, -1], [7, 2**31 - 1]]), np.uint32),
        (np.asarray(jnp.linspace(-3, 3, 7, dtype=jnp.bfloat16)), np.uint16),
        (np.array([True, False, True]), np.uint8),
        (np.zeros((0, 3), np.float32), np.uint32),
        (np.float32(2.0).reshape(()), np.uint32),
    ],
)
def test_the_sum_is_that_of_murmurs_mix(array: np.ndarray, words: type) -> None:
    assert check_sum({"a": array}) == murmur(array.reshape(-1).view(words))
    assert int(jax.jit(health.sum_of_words)([array, array])) == 2 * murmur(array.reshape(-1).view(words)) % 2**32


def test_the_sum_sees_a_bit_and_a_lost_zero() -> None:
    array = np.random.default_rng(0).standard_normal((5, 7), np.float32)
    sums = {check_sum(array), check_sum(np.append(array, np.float32(0)))}
    for bit in range(32):
        flipped = array.copy()
        flipped.view(np.uint32)[2, 3] ^= np.uint32(1 << bit)
        sums.add(check_sum(flipped))
    assert len(sums) == 34


def test_the_sum_does_not_depend_on_places_or_layout() -> None:
    layers = np.random.default_rng(0).standard_normal((2, 8, 3), np.float32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    there = check_sum(layers)
    assert there == murmur(layers.view(np.uint32))
    assert check_sum({"0": layers[0], "1": layers[1]}) == there
    for spec in (PartitionSpec(), PartitionSpec(None, "data")):
        assert check_sum(jax.device_put(layers, NamedSharding(mesh, spec))) == there


def test_healthy_devices_with_what_pmap_returns() -> None:
    """As the training step's state: in and out with None as axis."""
    parallel = Pmapped()
    step = jax.pmap(lambda x, one: jax.tree.map(lambda x: x + one, x), in_axes=(None, 0), out_axes=None)
    state = new_state(parallel)
    state = state._replace(params=step(state.params, np.ones(8, np.float32)))
    assert check_devices(parallel, state, no_line) == check_sum(state.params)


def test_healthy_devices_with_cut_parameters() -> None:
    parallel = Sharded(CONFIG.model)
    state = new_state(parallel)
    whole = [leaf for leaf in jax.tree.leaves(state.params) if leaf.sharding.is_fully_replicated]
    assert 0 < len(whole) < len(jax.tree.leaves(state.params))
    assert check_devices(parallel, state, no_line) == check_sum(whole)


def test_one_device_alone() -> None:
    parallel = Pmapped(jax.devices()[:1])
    state = new_state(parallel)
    assert check_devices(parallel, state, no_line) == check_sum(state.params)


@pytest.mark.parametrize("make", [Pmapped, lambda: Sharded(CONFIG.model)], ids=["pmap", "fsdp"])
def test_the_device_that_differs_is_named(make: Callable[[], Parallel]) -> None:
    parallel = make()
    state = new_state(parallel)
    good = check_devices(parallel, state, no_line)
    with pytest.raises(UserError) as error:
        check_devices(parallel, with_corrupt_copy(state, jax.devices()[5]), no_line)
    before, after = str(error.value).split(f" than most devices ({good:08x}); ")
    assert before.startswith("device 5 (cpu, of host 0): holds other parameters (check-sum ")
    assert after == "make sure that all devices work; the same command goes on from the last checkpoint"


def test_of_two_that_differ_nobody_knows_which() -> None:
    parallel = Pmapped(jax.devices()[:2])
    state = new_state(parallel)
    with pytest.raises(UserError, match=r"different parameters, device 0 \(cpu.*check-sum .*, device 1 \(cpu.*check-"):
        check_devices(parallel, with_corrupt_copy(state, jax.devices()[1]), no_line)


def test_a_device_that_computes_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    parallel = Pmapped(jax.devices()[:3])
    state = new_state(parallel)
    programs = health._programs

    def broken(own: tuple[jax.Device, ...]) -> Any:
        add, count_wrong = programs(own)

        def count(matrix: jax.Array, product: jax.Array) -> jax.Array:
            parts = [shard.data for shard in product.addressable_shards]
            parts[1] = parts[1].at[4, 7].add(1).at[9, 9].add(-64)  # as if device 1 had got another product
            return count_wrong(matrix, jax.make_array_from_single_device_arrays(product.shape, product.sharding, parts))

        return add, count

    monkeypatch.setattr(health, "_programs", broken)
    with pytest.raises(UserError) as error:
        check_devices(parallel, state, no_line)
    assert str(error.value).startswith(
        "device 1 (cpu, of host 0): computes 2 of 262144 entries of a matrix product wrongly; make sure"
    )


def test_the_product_is_exact() -> None:
    matrix = health._matrix().astype(np.int64)
    assert np.abs(matrix).max() <= 32
    np.testing.assert_array_equal(health._product(), matrix @ matrix.T)
    assert np.abs(health._product()).max() < 2**20


def test_slow_devices_are_named_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [4000, 4100, 8300, 3900, 8000, 4000, 4000, 4000]
    monkeypatch.setattr(health, "_microseconds_alone", lambda device: times[device.id])
    parallel, said = Pmapped(), []
    state = new_state(parallel)
    assert check_devices(parallel, state, said.append) == check_sum(state.params)
    assert said == [
        "device 2 (cpu, of host 0) is slow: 8.3 ms for what takes the median device 4.0 ms; make sure that it works "
        "and that nothing else uses it"
    ]


def test_the_work_takes_time_and_stays_in_bounds() -> None:
    assert health._microseconds_alone(jax.devices()[3]) > 100
    result = np.asarray(health._work(jnp.asarray(health._matrix() / 32), 5))
    assert np.abs(result).max() <= 1
    assert np.abs(result).mean() > 0.5


def test_hosts_with_fewer_devices_are_named() -> None:
    devices: Any = [SimpleNamespace(process_index=index // 4) for index in range(15)]
    with pytest.raises(UserError, match=r"^host 3 has 3 devices, the others have 4; make sure that all devices work"):
        health._check_counts(devices)


def test_many_names_are_cut_short() -> None:
    assert health._names(jax.devices() * 2).endswith("device 7 (cpu, of host 0), 8 more")


TWO_HOSTS = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
from jaxgpt.config import ParallelConfig
from jaxgpt.train import hosts
joined = hosts.join(ParallelConfig("pmap", sys.argv[2], 2, int(sys.argv[3]), 60), {}, print)
from test_health import CONFIG, Pmapped, Sharded, UserError, check_devices, new_state, no_line, with_corrupt_copy
for parallel in (Pmapped(), Sharded(CONFIG.model)):
    state = new_state(parallel)
    print("sum", check_devices(parallel, state, no_line))
    if not joined.is_first:
        state = with_corrupt_copy(state, jax.local_devices()[1])
    try:
        check_devices(parallel, state, no_line)
    except UserError as error:
        print("error", error)
hosts.leave()
"""


@pytest.mark.slow
def test_two_hosts_agree_and_name_the_same_device() -> None:
    folder, address = __file__.rsplit("/", 1)[0], f"127.0.0.1:{free_port()}"
    finished = run_all([python(TWO_HOSTS, folder, address, index) for index in range(2)])
    for process in finished:
        assert process.exit_code == 0, process.error
    lines = [[line for line in process.out.splitlines() if line[:3] in ("sum", "err")] for process in finished]
    assert lines[0] == lines[1]
    for (healthy, error), parallel in zip(
        (lines[0][:2], lines[0][2:]), (Pmapped(), Sharded(CONFIG.model, jax.devices()[:4])), strict=True
    ):
        assert healthy == f"sum {check_devices(parallel, new_state(parallel), no_line)}"
        assert "(cpu, of host 1): holds other parameters" in error
        assert error.count("device ") == 1
