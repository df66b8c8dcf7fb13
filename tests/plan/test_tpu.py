"""The configurations for a TPU v3-128 under the real TPU compiler; without libtpu there is nothing to ask."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from jaxgpt.commands.planning import plan as command
from jaxgpt.config import Config, DataConfig, OptimizerConfig, ParallelConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan.machines import find_machine, tpu_devices
from jaxgpt.plan.planning import Plan, make_plan

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: requirements-plan.txt has it"),
]
CONFIGS = Path(__file__).parents[2] / "configs"
GIB = 2**30


def plan_of(name: str) -> Plan:
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    sections = {
        "data": DataConfig,
        "model": ModelConfig,
        "optimizer": OptimizerConfig,
        "train": TrainConfig,
        "parallel": ParallelConfig,
    }
    cfg = Config(output="", **{section: build(**content[section]) for section, build in sections.items()})
    assert cfg.train.batch_size == 512
    assert cfg.data.seq_len == cfg.model.n_positions == 1024
    return make_plan(cfg, find_machine("v3:8x8"))


def check(planned: Plan, n_params: int, shards: int) -> None:
    """Memory and time of a plan on 128 cores of 16 GiB, against what is known of the model."""
    assert planned.fits
    assert planned.machine.n_devices == 128
    assert planned.bytes_per_device < 16 * GIB
    # Vectors, few beside the matrices, are whole on every device.
    assert planned.memory["parameters"] == pytest.approx(4 * n_params / shards, rel=0.05)
    assert planned.memory["optimizer state"] == pytest.approx(8 * n_params / shards, rel=0.05)
    assert planned.mfu is not None
    # Published for these sizes on TPU v3: 48 % (124M, gpt-jax, which keeps all scores) and 48 % (1.3B, midGPT), where
    # devices wait for each other, too.
    assert 0.4 < planned.mfu < 0.75


def test_gpt2_small_fits_a_v3_128_under_pmap() -> None:
    check(plan_of("gpt2_small_v3_128"), n_params=124_439_808, shards=1)


def test_gpt2_xl_fits_a_v3_128_under_fsdp() -> None:
    # 1600 columns are cut into 64 parts, and there are two of each.
    check(plan_of("gpt2_xl_v3_128"), n_params=1_557_611_200, shards=64)


def test_what_is_too_large_is_a_plan_and_no_error() -> None:
    model = ModelConfig(n_layer=1, dtype="bfloat16", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    planned = make_plan(Config(output="", model=model, train=TrainConfig(batch_size=8192)), find_machine("v3:2x2"))
    assert not planned.fits
    assert planned.bytes_per_device > 16 * GIB
    assert planned.step_seconds is None
    assert planned.too_large is not None
    assert "exceeds available HBM" in planned.too_large


@pytest.mark.parametrize(
    "name", ["v2:2x2", "v3:2x2", "v4:2x2x1", "v4:2x4x4", "v5e:1x1", "v5e:2x4", "v5p:2x2x1", "v6e:1x1", "v6e:16x16"]
)
def test_the_compiler_has_the_devices_that_the_machine_should_have(name: str) -> None:
    machine = find_machine(name)
    devices = tpu_devices(machine)
    assert len(devices) == machine.n_devices
    assert {device.device_kind for device in devices} == {machine.device_kind}


def test_a_slice_that_the_compiler_refuses_is_named() -> None:
    with pytest.raises(UserError, match=r"--topology v3:3x3 is refused by the compiler \(.*\); known: v2:2x2"):
        tpu_devices(find_machine("v3:3x3"))


def test_the_command_wants_a_batch_for_all_cores() -> None:
    config = str(CONFIGS / "gpt2_small_v3_128.yaml")
    with pytest.raises(UserError, match=r"train\.batch_size 500 is not divisible by 128 devices; try 384 or 512"):
        command(["--config", config, "--topology", "v3:8x8", "--train.batch_size", "500"])
