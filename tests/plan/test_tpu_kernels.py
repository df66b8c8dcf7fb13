"""Steps whose attention is JAX's kernel, by the TPU compiler for devices that are not there."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

from jaxgpt.config import Config, DataConfig, ParallelConfig, TrainConfig
from jaxgpt.model.attention_choice import choose
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan.compiling import Compiled, compile_step, trace_step
from jaxgpt.plan.machines import find_machine, tpu_devices

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: requirements-plan.txt has it"),
]
MODEL = ModelConfig(vocab_size=1000, n_layer=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, dtype="bfloat16")


def _config(mode: str, scan_layers: bool) -> Config:
    return Config(
        "",
        data=DataConfig(seq_len=1024),
        model=replace(MODEL, scan_layers=scan_layers, remat="full" if scan_layers else "none"),
        train=TrainConfig(batch_size=8),
        parallel=ParallelConfig(mode=mode),
    )


@pytest.mark.parametrize(
    ("topology", "mode", "dialogue", "scan_layers"),
    [("v5p:2x2x1", "pmap", False, False), ("v5p:2x2x1", "fsdp", True, True), ("v4:2x2x1", "pmap", True, False)],
)
def test_splash_compiles_for_v4_and_later(topology: str, mode: str, dialogue: bool, scan_layers: bool) -> None:
    devices = tpu_devices(find_machine(topology))
    assert choose(MODEL, devices[0]).kernel == "splash"
    compiled = compile_step(trace_step(_config(mode, scan_layers), devices, dialogue))
    assert isinstance(compiled, Compiled)
    assert "tpu_custom_call" in compiled.text


def test_v3_has_blocks() -> None:
    devices = tpu_devices(find_machine("v3:2x2"))
    assert choose(MODEL, devices[0]).kernel == "blocks"
    compiled = compile_step(trace_step(_config("pmap", scan_layers=False), devices, dialogue=True))
    assert isinstance(compiled, Compiled)
    assert "tpu_custom_call" not in compiled.text
