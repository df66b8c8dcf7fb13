"""Machines by name, their devices and memory, and prices."""

import pytest

from jaxgpt.errors import UserError
from jaxgpt.plan.machines import find_machine
from jaxgpt.plan.prices import PRICES, price_of


@pytest.mark.parametrize(
    ("name", "devices", "units", "gib"),
    [
        ("v2:2x2", 8, 4, 8),
        ("v3:8x8", 128, 64, 16),
        ("v4:2x2x2", 8, 8, 32),
        ("v5e:1x1", 1, 1, 16),
        ("v5e:4x8", 32, 32, 16),
        ("v5p:2x2x1", 4, 4, 95),
        ("v6e:2x4", 8, 8, 32),
        ("gpu:h100x8", 8, 8, 80e9 / 2**30),
        ("gpu:h200x1", 1, 1, 141e9 / 2**30),
    ],
)
def test_a_machine_has_the_devices_and_the_memory_of_the_real_one(
    name: str, devices: int, units: int, gib: float
) -> None:
    machine = find_machine(name)
    assert (machine.n_devices, machine.n_units) == (devices, units)
    assert machine.limit_bytes == pytest.approx(gib * 2**30)


@pytest.mark.parametrize(
    "name", ["", "v3", "v3:8x8x8", "v4:2x2", "v3:0x2", "v9:2x2", "v3-8", "gpu:h100", "gpu:k80x8", "gpu:h100x9", "tpu"]
)
def test_a_wrong_topology_names_the_known_ones(name: str) -> None:
    with pytest.raises(UserError) as error:
        find_machine(name)
    message = str(error.value)
    assert f"--topology {name} is none of the known ones" in message
    assert all(known in message for known in ("v2:2x2", "v3:8x8", "v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:2x4", "cpu"))
    assert all(known in message for known in ("a100", "h100", "h200"))


def test_every_price_is_dated_and_for_a_machine_that_is_known() -> None:
    assert set(PRICES) <= {"v2", "v3", "v4", "v5e", "v5p", "v6e", "a100", "h100", "h200"}
    assert all(price.as_of and price.source and price.usd > 0 for price in PRICES.values())


def test_a_given_price_takes_the_place_of_the_list_price() -> None:
    given, listed = price_of("v3", 0.5), price_of("v3", None)
    assert given is not None
    assert listed == PRICES["v3"]
    assert given.usd == 0.5
    assert price_of("cpu", None) is None
