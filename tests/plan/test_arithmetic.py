"""FLOPs counted in the traced step, against the formula for the model and against sums by hand."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.config import Config, ParallelConfig, TrainConfig
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan.arithmetic import Product, products, roofline_seconds
from jaxgpt.plan.compiling import trace_step
from jaxgpt.train.flops import peak_flops, train_flops_per_token

# 128 ids need no padding.
MODEL = ModelConfig(vocab_size=128, n_positions=24, n_embd=16, n_layer=3, n_head=2, n_inner=40)


def step_flops(mode: Any = "pmap", microbatches: int = 1, **model: Any) -> float:
    """Of all eight devices."""
    cfg = Config(
        output="",
        model=replace(MODEL, **model),
        train=TrainConfig(batch_size=32, microbatches=microbatches),
        parallel=ParallelConfig(mode=mode),
    )
    step = trace_step(cfg, jax.devices()[:8], dialogue=False)
    return 8 * sum(product.flops * product.times for product in step.products)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"mode": "fsdp"},
        {"microbatches": 2},
        {"scan_layers": True},
        {"embed_dim": 8, "share": "all"},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_the_traced_step_has_the_flops_of_the_formula(case: dict[str, Any]) -> None:
    model = replace(MODEL, **{name: value for name, value in case.items() if name not in ("mode", "microbatches")})
    assert step_flops(**case) == 32 * 24 * train_flops_per_token(model, 24)


def test_what_remat_computes_again_is_counted() -> None:
    blocks = 2 * 3 * (4 * 16 * 16 + 2 * 16 * 40 + 2 * 24 * 16) * 32 * 24
    # The last product of a block is not needed to go back through it.
    last = 2 * 3 * 16 * 40 * 32 * 24
    assert step_flops(remat="full") - step_flops() in (blocks, blocks - last)


def test_gpt2_small_has_the_published_flops() -> None:
    assert train_flops_per_token(ModelConfig(), 1024) == pytest.approx(855e6, rel=1e-3)  # nanoGPT: 855 MFLOP per token


def test_loops_and_branches_by_hand() -> None:
    def function(x: jax.Array, flag: jax.Array) -> jax.Array:
        x = jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    jaxpr = jax.make_jaxpr(function)(jnp.zeros((4, 4)), True).jaxpr
    found = products(jaxpr, n_devices=1)
    assert sum(product.times * product.flops for product in found) == (7 + 2) * 2 * 4**3
    assert {product.traffic for product in found} == {3 * 16 * 4}


def test_the_roofline_takes_the_slower_of_arithmetic_and_traffic() -> None:
    parts = [Product(flops=100.0, traffic=1.0, times=2.0), Product(flops=1.0, traffic=50.0, times=3.0)]
    assert roofline_seconds(parts, 20.0, flops_per_second=10.0, bandwidth=5.0) == 2 * 10 + 3 * 10 + 4


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops"),
    [
        ("TPU v3", "bfloat16", 61.5),
        ("TPU v5 lite", "bfloat16", 197.0),
        ("TPU v5", "float32", 459.0),
        ("NVIDIA A100-SXM4-40GB", "float32", 156.0),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312.0),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("Tesla V100-SXM2-16GB", "bfloat16", 15.7),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA L40", "bfloat16", None),
        ("cpu", "float32", None),
    ],
)
def test_the_peak_is_that_of_exactly_this_device(kind: str, dtype: str, tflops: float | None) -> None:
    peak = peak_flops(kind, dtype)
    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))
