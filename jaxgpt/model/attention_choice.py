"""Which way of computing attention a device gets, and why."""

from dataclasses import replace
from typing import NamedTuple

import jax

from jaxgpt.errors import UserError
from jaxgpt.model.kernels import LANES
from jaxgpt.model_config import Kernel, ModelConfig

_WITHOUT_SPLASH = ("TPU v2", "TPU v3")  # whose compiler refuses the kernel's bfloat16 products
_CUDNN_HEADS = 128  # the largest head that its kernel takes on every card that has one


class Choice(NamedTuple):
    """reason: of the kernel, a phrase."""

    kernel: Kernel
    reason: str


def choose(cfg: ModelConfig, device: jax.Device) -> Choice:
    """What cfg.attention means on such a device; UserError where it asks for what the device cannot do."""
    fast, reason = _fast_kernel(cfg, device)
    if cfg.attention == "auto":
        return Choice(fast or "blocks", reason)
    if cfg.attention in ("blocks", fast):
        return Choice(cfg.attention, "as model.attention says")
    why = f"the kernel for a {device.device_kind} is {fast}" if fast else reason
    raise UserError(f"model.attention is {cfg.attention}, but {why}; set it to auto or blocks")


def _fast_kernel(cfg: ModelConfig, device: jax.Device) -> tuple[Kernel | None, str]:
    """The kernel made for the device, if there is one that takes this model, and what decides it."""
    kind = device.device_kind
    if device.platform == "tpu":
        if kind in _WITHOUT_SPLASH:
            return None, f"splash needs a TPU v4 or later, and this is a {kind}"
        return "splash", f"{kind}; blocks where a row's length is no multiple of {LANES}"
    if device.platform == "gpu":
        head = cfg.n_embd // cfg.n_head
        if cfg.dtype != "bfloat16":
            return None, f"cudnn needs model.dtype bfloat16, and this is {cfg.dtype}"
        if head % 8 or head > _CUDNN_HEADS:
            return None, f"cudnn takes heads of a multiple of 8 up to {_CUDNN_HEADS}, and these are of {head}"
        if float(getattr(device, "compute_capability", "0")) < 8:
            return None, f"cudnn needs compute capability 8.0 or later, and this is a {kind}"
        return "cudnn", kind
    return None, f"there is no kernel for a {device.platform}"


def explain(cfg: ModelConfig, device: jax.Device, dropout: bool) -> str:
    """The choice as a line for whoever trains. dropout: whether training drops out at all."""
    kernel, reason = choose(cfg, device)
    at_once = f"; in training all at once, because model.attn_pdrop is {cfg.attn_pdrop:g}: 0 would be quicker"
    return f"attention: {kernel} ({reason}){at_once if dropout and cfg.attn_pdrop else ''}"


def chosen(cfg: ModelConfig, device: jax.Device) -> ModelConfig:
    """cfg with the choice for such a device made."""
    return replace(cfg, attention=choose(cfg, device).kernel)
