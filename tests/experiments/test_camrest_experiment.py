"""CamRest676 from raw data to the table, in both forms that it has, and as users call it."""

import json
from pathlib import Path

import pytest
from small_experiments import ARDM, CONFIGS, REAL, TINY, search, write_camrest

from jaxgpt import cli
from jaxgpt.evaluate.tasks.camrest import load_ontology, measure_camrest
from jaxgpt.experiments.camrest_data import read_ardm, read_published


def test_camrest_as_published(tmp_path: Path) -> None:
    raw = write_camrest(tmp_path)
    parts = read_published(raw / "CamRest676.json", raw / "CamRestDB.json")
    assert [len(part) for part in parts] == [12, 4, 4]
    # What the user has said stays; a name or address ends where its last word does, other values take its rest along.
    assert [turn.text for turn in parts[1][0].turns] == [
        "something north for 12\n2",
        "<name_SLOT> and <name_SLOT> serve <food_SLOT> and <food_SLOT> food in the north . <address_SLOT> streets",
        "phone ?\n2",
        "<phone_SLOT> , <postcode_SLOT> or <address_SLOT>",
    ]


@pytest.mark.skipif(not (REAL / "camrest").is_dir(), reason="CamRest676 is not here")
def test_camrest_as_published_is_what_ardm_made_of_it() -> None:
    parts = read_published(REAL / "camrest" / "CamRest676.json", REAL / "camrest" / "CamRestDB.json")
    for name, part in zip(("train", "val", "test"), parts, strict=True):
        assert part == read_ardm(REAL / "camrest" / f"ardm_{name}_data.json")


@pytest.mark.slow
def test_the_command_as_users_call_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The steps' own processes: one device, as on a user's machine, and programs that are soon compiled.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    raw, output = write_camrest(tmp_path / "raw"), tmp_path / "out"
    config = str(CONFIGS / "camrest.yaml")
    arguments = [
        "--config",
        config,
        "--raw",
        str(raw),
        "--output",
        str(output),
        *TINY,
        ARDM,
        "--train_dialogues=10",
        "--json",
    ]
    cli.experiment(arguments)
    said = capsys.readouterr().out
    first = json.loads((output / "report.json").read_text())
    assert json.loads(said.splitlines()[-1]) == first
    assert (first["train_dialogues"], first["valid_dialogues"], first["test_dialogues"]) == (10, 4, 4)
    lines = (output / "train.jsonl").read_text().splitlines()
    assert len(lines) == 10
    assert [turn["text"] for turn in json.loads(lines[3])] == [
        *("thai food for 3\n3", "<name_SLOT> is <food_SLOT> ."),
        *("where ?\n3", "at <address_SLOT> in the north ."),
    ]
    for command in ("make_tfrecords.py --source dialogue:", "jaxgpt train --config"):
        assert f"{command}" in said
    table = (output / "table.md").read_text()
    assert table in said
    assert "| Success-F1 | 0." in table
    assert "| 0.2066 |" in table
    assert "| 0.846 |" in table

    replies = json.loads((output / "replies.json").read_text())["replies"]
    assert [len(own) for own in replies] == [2, 2, 2, 2]
    references = [[turn["replaced_response"] for turn in search(number)] for number in range(16, 20)]
    found = measure_camrest(replies, references, load_ontology(raw / "CamRestOTGY.json"))
    assert first["metrics"] == json.loads(json.dumps(found.as_json()))

    kept = {name: (output / name).stat().st_mtime_ns for name in ("run/metrics.jsonl", "replies.json", "train.jsonl")}
    cli.experiment(arguments)
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    assert json.loads((output / "report.json").read_text()) == first
