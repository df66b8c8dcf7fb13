"""What an experiment writes and keeps, and the configs of the project."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_experiments import CONFIGS, REAL, Run, write_camrest, write_persuasion

from jaxgpt.data.dialogue import Conversation
from jaxgpt.data.manifest import load_manifest
from jaxgpt.data.verify import verify
from jaxgpt.errors import UserError
from jaxgpt.experiments import pages, running
from jaxgpt.experiments.config import EXPERIMENTS, CamRestExperiment, kind_of
from jaxgpt.experiments.prepare import prepare


def test_a_figure_that_is_no_number_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_step", lambda command: {"step": 1})
    monkeypatch.setattr(running, "make_pages", lambda cfg, output: output / "pages")
    figures = {"perplexity": math.inf, "interval": (math.nan, 2.0)}
    talks = [Conversation.alternating(["a", "b"])]
    prepared = running.Prepared(talks, talks, lambda run: running.Outcome(figures, ()))
    running.run_experiment(CamRestExperiment("camrest", str(tmp_path), "raw"), prepared, [])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert (report["perplexity"], report["interval"]) == (None, [None, 2.0])


def test_other_conversations_or_pages_are_refused_and_the_folder_stays(tmp_path: Path, experiment: Run) -> None:
    raw, output = write_camrest(tmp_path / "raw"), tmp_path / "out"
    cfg = CamRestExperiment("camrest", str(output), str(raw), row_length=64)
    talks = [Conversation.alternating([f"say {number}", "yes"]) for number in range(3)]
    output.mkdir()
    pages.write_conversations(cfg, output, {"train": talks[:2], "valid": talks[2:]})
    pages.make_pages(cfg, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    with pytest.raises(UserError, match=r"output is .*/out, whose valid.jsonl has 1 conversations .* not the 3 that"):
        pages.write_conversations(cfg, output, {"train": talks[:2], "valid": talks})
    with pytest.raises(UserError, match=r"row_length is 32, but output is .*/out, whose pages have row_length 64"):
        pages.write_conversations(replace(cfg, row_length=32), output, {"train": talks[:2], "valid": talks[2:]})
    pages.write_conversations(cfg, output, {"train": talks[:2], "valid": talks[2:]})
    pages.make_pages(cfg, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_an_output_that_is_a_file_is_named(tmp_path: Path, experiment: Run) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"output is .*/out, which is a file; give a folder"):
        experiment("persuasion", write_persuasion(tmp_path / "raw"))


@pytest.mark.skipif(not (REAL / "persuasion").is_dir(), reason="the real dialogues are not here")
@pytest.mark.parametrize("name", ["persuasion", "camrest", "multiwoz"])
def test_a_few_real_dialogues_become_pages(tmp_path: Path, experiment: Run, name: str) -> None:
    raw, output, options = tmp_path / "raw", tmp_path / "out", dict[str, Any]()
    raw.mkdir()
    if name == "multiwoz":
        import zipfile

        for database in (REAL / "multiwoz21").glob("*_db.json"):
            (raw / database.name).symlink_to(database)
        with zipfile.ZipFile(REAL / "multiwoz21" / "convlab2_val.json.zip") as archive:
            dialogues = json.loads(archive.read("val.json"))
        for begin, split in enumerate(("train", "valid", "test")):
            few = dict(list(dialogues.items())[4 * begin : 4 * begin + 4])
            (raw / f"{split}.json").write_text(json.dumps(few))
            options |= {f"{split}_file": f"{split}.json", f"{split}_list": None}
    else:
        for path in (REAL / name).glob("*_*.json"):
            (raw / path.name).write_text(json.dumps(json.loads(path.read_text())[:4]))
        if name == "camrest":
            options = {"dialogues_file": None}
            (raw / "CamRestOTGY.json").symlink_to(REAL / "camrest" / "CamRestOTGY.json")
    output.mkdir()
    cfg = EXPERIMENTS[name](name, str(output), str(raw), row_length=64, **options)
    found = prepare(cfg)
    pages.write_conversations(cfg, output, {"train": found.train, "valid": found.valid})
    verify(pages.make_pages(cfg, output))
    splits = load_manifest(output / "pages").splits
    assert {split: info.documents for split, info in splits.items()} == {"train": 4, "valid": 4}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_config_says_how_to_run_it_and_trains(name: str) -> None:
    from test_configs import build

    path = CONFIGS / f"{name}.yaml"
    text = path.read_text()
    content = yaml.safe_load(text)
    assert kind_of(path) is EXPERIMENTS[name]
    assert any(f"jaxgpt experiment --config configs/experiments/{name}.yaml" in line for line in text.splitlines()[:16])
    cfg = build({"output": "runs/x", **content["train"]})
    assert cfg.init_from == "gpt2"
    assert cfg.model.n_params == 124_439_808
    assert content["row_length"] <= cfg.model.n_positions
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(EXPERIMENTS)
