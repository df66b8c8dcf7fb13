"""Plans for machines that this one can stand in for, the search, and the command's text and JSON."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import yaml

from jaxgpt.commands.planning import plan as command
from jaxgpt.config import Config, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan import planning
from jaxgpt.plan.compiling import _missing, trace_step
from jaxgpt.plan.machines import Machine, find_machine
from jaxgpt.plan.planning import Plan, largest_batch, make_plan, search
from jaxgpt.plan.prices import Price
from jaxgpt.plan.report import as_json, lines
from jaxgpt.train.flops import train_flops_per_token

KEYS = {
    "fits",
    "devices",
    "bytes_per_device",
    "limit_bytes",
    "flops_per_device",
    "step_seconds",
    "tokens_per_second_per_device",
    "mfu",
    "hours",
    "cost",
}
MODEL = ModelConfig(vocab_size=128, n_positions=24, n_embd=16, n_layer=1, n_head=2, dtype="bfloat16")
CFG = Config(output="", model=MODEL, train=TrainConfig(max_steps=5000, batch_size=32))


@pytest.fixture(scope="module")
def h100() -> Plan:
    return make_plan(CFG, find_machine("gpu:h100x2"), price=3.0)


def test_the_state_of_adamw_is_three_times_the_parameters(h100: Plan) -> None:
    assert h100.memory["parameters"] == 4 * MODEL.n_params
    # Two moments, and the count of steps that Adam's correction needs.
    assert h100.memory["optimizer state"] == 2 * 4 * MODEL.n_params + 4
    assert h100.memory["batch"] == 4 * (3 * 16 * 24 + 16 + 1)  # ids, targets, weights; row numbers; the wish to stop
    assert h100.bytes_per_device == sum(h100.memory.values())
    assert h100.fits


def test_attention_by_a_kernel_is_planned_as_blocks(h100: Plan) -> None:
    with_kernel = replace(CFG, model=replace(MODEL, attention="cudnn"))
    found = make_plan(with_kernel, find_machine("gpu:h100x2"), price=3.0)
    assert found.cfg.model.attention == "cudnn"
    assert found.step_seconds == h100.step_seconds
    assert found.memory == h100.memory


def test_time_speed_and_cost_follow_from_each_other(h100: Plan) -> None:
    report = as_json(h100)
    seconds = report["step_seconds"]
    tokens = 32 * 24 / 2
    assert seconds >= tokens * train_flops_per_token(MODEL, 24) / 989.4e12
    assert report["tokens_per_second_per_device"] == pytest.approx(tokens / seconds)
    assert report["mfu"] == pytest.approx(tokens * train_flops_per_token(MODEL, 24) / seconds / 989.4e12)
    assert report["hours"] == pytest.approx(seconds * 5000 / 3600)
    assert report["cost"] == pytest.approx(report["hours"] * 2 * 3.0)
    assert report["estimate"] == "roofline"
    assert set(report) >= KEYS
    assert "A roofline, not measured" in "\n".join(lines(h100))


def test_what_does_not_fit_is_said_with_both_sizes_and_a_way_out(h100: Plan) -> None:
    needed, state = h100.bytes_per_device, 3 * h100.memory["parameters"]
    fits = {limit: make_plan(CFG, replace(h100.machine, limit_bytes=limit)) for limit in (needed, needed - 1, state)}
    # What a CPU needs beside the state is only a hint for a GPU.
    assert [planned.fits for planned in fits.values()] == [True, None, False]
    text = "\n".join(lines(fits[state]))
    assert f"DOES NOT FIT, {needed / 2**30:,.2f} of {state / 2**30:,.2f} GiB" in text
    assert "try a lower train.batch_size" in text
    assert "MAY NOT FIT" in "\n".join(lines(fits[needed - 1]))


def test_dialogue_has_a_larger_batch(h100: Plan) -> None:
    step = trace_step(CFG, jax.devices()[:2], dialogue=True)
    assert step.memory["batch"] - h100.memory["batch"] == 3 * 4 * 16 * 24


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size 33 is not divisible by 8 devices; try 32 or 40"):
        make_plan(replace(CFG, train=TrainConfig(batch_size=33)), find_machine("gpu:h100x8"))


@pytest.mark.parametrize("largest", [8, 16, 24, 40, 96, 104, 8 * 64])
@pytest.mark.parametrize("start", [8, 32, 512])
def test_the_search_finds_the_largest_and_tries_few(largest: int, start: int) -> None:
    tried: list[int] = []

    def fits(batch_size: int) -> bool:
        tried.append(batch_size)
        return batch_size <= largest

    assert search(fits, start, 8, 8 * 64) == largest
    assert len(tried) == len(set(tried)) <= 10
    assert all(batch_size % 8 == 0 for batch_size in tried)


def test_the_search_says_where_nothing_fits() -> None:
    assert search(lambda batch_size: False, 32, 8, 1024) is None


def test_the_search_goes_by_what_the_plans_say(
    h100: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_of(cfg: Config, machine: Machine, dialogue: bool) -> Plan:
        needed = cfg.train.batch_size * 2**30
        return replace(h100, cfg=cfg, fits=needed <= machine.limit_bytes, bytes_per_device=needed)

    monkeypatch.setattr(planning, "make_plan", plan_of)
    assert largest_batch(replace(h100, machine=replace(h100.machine, limit_bytes=45 * 2**30))) == 44
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "batch 64: too large, 64.00 of 45.00 GiB a device"
    assert "batch 44: fits, 44.00 of 45.00 GiB a device" in said
    assert "batch 46: too large, 46.00 of 45.00 GiB a device" in said


@pytest.mark.parametrize(
    ("message", "over"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.62G) "
            "exceeds available HBM (15.48G).",
            5.14 * 2**30,
        ),
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded hbm capacity by", 1.75 * 2**30),
        ("Used 1.00T of 900.00M hbm.", 2**40 - 900 * 2**20),
    ],
)
def test_the_compilers_words_give_what_is_missing(message: str, over: float) -> None:
    assert _missing(message) == pytest.approx(over)


def test_a_compiler_that_says_it_in_another_way_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="new way of saying"):
        _missing("RESOURCE_EXHAUSTED: no")


def test_a_compiler_that_gives_no_time_makes_it_unknown(h100: Plan) -> None:
    unknown = replace(
        h100, machine=find_machine("v6e:2x4"), step_seconds=None, bytes_moved=None, price=Price(1, None, "")
    )
    report = as_json(unknown)
    assert [report[key] for key in ("step_seconds", "tokens_per_second_per_device", "mfu", "hours", "cost")] == [
        None
    ] * 5
    assert "time of a step                     unknown" in "\n".join(lines(unknown))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The command sets both for its own process.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    path = tmp_path / "given.yaml"
    model = {"vocab_size": 128, "n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2}
    path.write_text(
        yaml.safe_dump({"output": "runs/x", "model": model, "train": {"batch_size": 16, "max_steps": 2000}})
    )
    return path


@pytest.mark.slow
def test_the_command_prints_a_report_and_json_of_a_cpu_that_it_measures(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["--config", str(config), "--topology", "cpu", "--json"])
    *text, last = capsys.readouterr().out.splitlines()
    assert text[0] == "cpu: 1 device, parallel.mode pmap"
    assert any("unknown; give --price" in line for line in text)
    report = json.loads(last)
    assert set(report) >= KEYS
    assert report["devices"] == 1
    assert report["step_seconds"] > 0
    assert 0 < report["mfu"] <= 1
    assert report["cost"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --topology MACHINE"),
        (["--topology", "cpu", "--schedule"], "give either --topology MACHINE"),
        (["--topology", "v9:2x2"], "--topology v9:2x2 is none of the known ones"),
        (["--topology", "cpu", "--price", "-1"], "--price is -1.0; it must be 0 or more"),
        (["--topology", "cpu", "--search", "all"], "--search is 'all'; it must be one of batch"),
        (["--schedule", "--output", "x.bmp"], "--output x.bmp must end in one of .png .svg .pdf"),
        (["--topology", "cpu", "--train.batchsize", "3"], "did you mean train.batch_size"),
    ],
)
def test_wrong_options_are_refused(config: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        command(["--config", str(config), *arguments])
    assert message in str(error.value)


def test_the_schedule_is_drawn_and_its_peak_and_end_are_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = config.parent / "curve.png"
    options = ["--optimizer.warmup_steps", "100", "--optimizer.learning_rate", "2e-3", "--output", str(picture)]
    command(["--config", str(config), "--schedule", *options])
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "peak: learning rate 0.002 at step 100\n" in out
    assert "end: learning rate 0.0002 at step 2,000\n" in out


def test_more_devices_than_there_are_virtual_ones_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda _: [])
    with pytest.raises(UserError, match="--xla_force_host_platform_device_count=8"):
        make_plan(CFG, find_machine("gpu:h100x8"))
