"""MultiWOZ from raw data to the table."""

import json
from pathlib import Path

from small_experiments import Run
from small_woz import meal, write_raw


def test_multiwoz(tmp_path: Path, experiment: Run) -> None:
    raw = tmp_path / "raw"
    write_raw(raw, {f"MUL{number}.json": meal(number) for number in range(12)})
    (raw / "valListFile.txt").write_text("MUL0.json\nMUL1.json\n")
    (raw / "testListFile.txt").write_text("MUL2.json\nMUL3.json\nMUL4.json\n")
    report = experiment("multiwoz", raw)
    assert (report["train_dialogues"], report["valid_dialogues"], report["test_dialogues"]) == (7, 2, 3)
    assert report["people"] == {"match": 1, "success": 1}
    assert (report["metrics"]["dialogues"], report["metrics"]["turns"]) == (3, 6)
    assert report["metrics"]["success"] <= report["metrics"]["match"] <= 1
    turns = [turn["text"] for turn in json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])]
    assert turns == [
        "i want [value_pricerange] [value_food] food in the [value_area] .\n1;none;restaurant;",
        "[restaurant_name] is in the [value_area] , phone [restaurant_phone] .",
        "a table for [value_count] at [value_time] please .\n1;book;restaurant;",
        "booked ! the reference number is [restaurant_reference] .",
    ]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 84.78 % |" in table
    assert "| 70.87 % |" in table
