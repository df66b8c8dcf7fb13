"""What a step computes, counted in its jaxpr: every loop as often as it runs, what remat repeats included."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


class Product(NamedTuple):
    """Matrix products of one shape. flops, traffic (bytes of operands and result): of one; times: a device and step."""

    flops: float
    traffic: float
    times: float


def products(jaxpr: Jaxpr, n_devices: int) -> list[Product]:
    """The matrix products of one device. Outside a shard_map shapes are global; they count divided by the devices."""
    return list(_products(jaxpr, 1.0 / n_devices))


def _products(jaxpr: Jaxpr, times: float) -> Iterator[Product]:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            yield _product(eqn, times)
        elif name == "cond":
            branches = [list(_products(branch.jaxpr, times)) for branch in eqn.params["branches"]]
            yield from max(branches, key=lambda branch: sum(product.flops * product.times for product in branch))
        else:
            inner = times * eqn.params["length"] if name == "scan" else 1.0 if name == "shard_map" else times
            for part in _jaxprs(eqn):
                yield from _products(part, inner)


def _jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _product(eqn: JaxprEqn, times: float) -> Product:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, right, result = (_shape(variable) for variable in (*eqn.invars, *eqn.outvars))
    flops = 2.0 * result.size * math.prod(left.shape[axis] for axis in contracted)
    return Product(flops, float(sum(array.size * array.dtype.itemsize for array in (left, right, result))), times)


def _shape(variable: Any) -> jax.core.ShapedArray:
    array = variable.aval
    assert isinstance(array, jax.core.ShapedArray)
    return array


def roofline_seconds(parts: list[Product], other_bytes: float, flops_per_second: float, bandwidth: float) -> float:
    """The least time: each product takes as long as its arithmetic or its memory traffic, whichever is slower.

    other_bytes: traffic of everything else. Source: Williams et al. 2009, "Roofline".
    """
    busy = sum(part.times * max(part.flops / flops_per_second, part.traffic / bandwidth) for part in parts)
    return busy + other_bytes / bandwidth
