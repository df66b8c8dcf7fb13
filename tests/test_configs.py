"""Every file in configs/ is a configuration that loads, and its header says how to run it."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
import yaml

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig

REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / "configs"
STUDY = FOLDER / "compare_gpt2_algpt2"
# Those of experiments have a form of their own, and tests of their own.
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "experiments")


def build(content: dict) -> Config:
    """The configuration without the command line's parser: nested dataclasses from nested dicts."""
    sections = {
        name: field.default_factory
        for name, field in Config.__dataclass_fields__.items()
        if isinstance(content.get(name), dict)
    }
    return Config(**{name: sections[name](**value) if name in sections else value for name, value in content.items()})


def test_there_are_configs() -> None:
    assert {"demo.yaml", "gpt2_small.yaml", "dialogue_small.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_loads_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    cfg = build(yaml.safe_load(text))
    assert cfg.output.startswith("runs/")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any(f"jaxgpt train --config {path.relative_to(REPOSITORY)}" in line for line in header)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("gpt2_small", 124.44),
        ("gpt2_medium", 354.82),
        ("gpt2_large", 774.03),
        ("gpt2_xl", 1557.61),
        ("algpt2_small", 13.85),
        ("algpt2_medium", 19.43),
        ("algpt2_large", 26.57),
        ("algpt2_xl", 37.72),
        ("gpt2_small_shared", 46.47),
    ],
)
def test_the_sizes_are_the_published_ones(name: str, millions: float) -> None:
    """Counts of Hugging Face's checkpoints, and of the ALGPT-2 write-up with a tied table."""
    cfg = build(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    assert round(cfg.model.n_params / 1e6, 2) == millions


@pytest.mark.parametrize(("embed_dim", "millions"), [(None, 46.47), (512, 34.13), (256, 20.61), (128, 13.85)])
def test_the_study_has_the_models_of_the_write_up(embed_dim: int | None, millions: float) -> None:
    """Its 47M, 34M, 20M and 13M; the small study has widths in the same ratio to the model's."""
    full, small = (build(yaml.safe_load((STUDY / f"{name}.yaml").read_text())).model for name in ("full", "small"))
    assert round(dataclasses.replace(full, share="all", embed_dim=embed_dim).n_params / 1e6, 2) == millions
    script = (STUDY / "study").read_text()
    assert f"widths=({' '.join(str(width * small.n_embd // full.n_embd) for width in (512, 256, 128))})" in script
    assert "widths=(512 256 128)" in script


def test_the_study_says_how_it_is_called() -> None:
    done = subprocess.run([STUDY / "study", "large"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "study small | full ARCHIVE" in done.stderr
    done = subprocess.run([STUDY / "study", "full"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the archive of OpenWebText is missing" in done.stderr


def test_distilgpt2_is_small_with_half_the_layers() -> None:
    assert ModelConfig(n_layer=6).n_params == 81_912_576  # Hugging Face's count for `distilgpt2`


def test_the_default_model_is_gpt2_small() -> None:
    assert ModelConfig().n_params == 124_439_808  # Hugging Face's count for `gpt2`
    assert ModelConfig().padded_vocab_size == 50304


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        (
            "model",
            {"n_embd": 100, "n_head": 12},
            "n_embd 100 is not divisible by model.n_head 12; try n_embd 96 or 108",
        ),
        ("model", {"n_layer": 0}, "model.n_layer is 0; it must be above 0"),
        ("model", {"resid_pdrop": 1.0}, "model.resid_pdrop is 1.0; it must lie in [0, 1)"),
        ("optimizer", {"learning_rate": -1.0}, "optimizer.learning_rate is -1.0"),
        ("optimizer", {"warmup_steps": 200_000}, "optimizer.warmup_steps 200000 is more than train.max_steps 100000"),
        ("data", {"seq_len": 2048}, "data.seq_len 2048 is more than model.n_positions 1024"),
        ("train", {"batch_size": 0}, "train.batch_size is 0"),
    ],
)
def test_bad_values_are_refused_with_both_values(section: str, values: dict, expected: str) -> None:
    with pytest.raises(UserError) as error:
        build({"output": "runs/x", section: values})
    assert expected in str(error.value)
