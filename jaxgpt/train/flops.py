"""Arithmetic: what training one token takes, and what a device can do at most. Both make the MFU.

MFU = tokens per second and device * FLOPs per token / peak FLOPs per second of the device. Source: Chowdhery et al.
2022, "PaLM", appendix B. What remat computes again does not count as useful.
"""

import re

from jaxgpt.model_config import ModelConfig


def train_flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """6 N + 12 L T D: forward and backward pass of one token in a sequence of T = seq_len tokens.

    N: parameters that a token is multiplied with: the matrices of the blocks, shared ones as often as they run; those
    around them where the embedding is factorised; the output table without its padding. Tables that are only looked up
    don't count. 12 L T D: the two products of attention, in full, though half of the scores are masked.
    """
    d, e = model.n_embd, model.table_width
    block = 4 * d * d + 2 * d * model.mlp_width
    around = 2 * d * e if model.factorised else 0
    multiplied = model.n_layer * block + around + model.vocab_size * e
    return 6.0 * multiplied + 12.0 * model.n_layer * seq_len * d


# Device kind as JAX names it, without its memory's size and the like -> peak TFLOP/s of products of bfloat16 and of
# float32, dense. TPUs and NVIDIA's tensor cores compute products of float32 in fewer bits unless
# jax_default_matmul_precision asks for more: TPUs in bfloat16, GPUs from Ampere on in TF32; the figures are for that.
# Sources: TPUs, per JAX device (v2 and v3: a core, half a chip): cloud.google.com/tpu/docs, pages v2 to v6e.
# GPUs: NVIDIA's data sheets and architecture white papers of V100, T4, A100, GA102, L4, L40S, AD102, H100, H200, B200.
# Cards older than Ampere have no bfloat16: XLA computes it in float32.
_PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "TPU v2": (22.5, 22.5),
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
    "Tesla V100": (15.7, 15.7),
    "Tesla T4": (8.1, 8.1),
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA A10": (125.0, 62.5),
    "NVIDIA A10G": (70.0, 35.0),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA L4": (121.0, 60.0),
    "NVIDIA L40S": (362.0, 183.0),
    "NVIDIA H100": (989.4, 494.7),
    "NVIDIA H100 NVL": (835.5, 417.5),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA B200": (2250.0, 1125.0),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of matrix products on one JAX device; None where the table doesn't know it (a CPU, say).

    dtype: `bfloat16` or `float32`, as model.dtype.
    """
    found = re.fullmatch(r"(.*?)(-.*| \d+GB.*)?", device_kind)
    peak = _PEAK_TFLOPS.get(device_kind) or (_PEAK_TFLOPS.get(found[1]) if found else None)
    if peak is None:
        return None
    return (peak[0] if dtype == "bfloat16" else peak[1]) * 1e12
