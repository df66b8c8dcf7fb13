"""What is said where raw data, splits or options of an experiment are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_experiments import (
    ARDM,
    CONFIGS,
    Run,
    write_camrest,
    write_persuasion,
    write_woz,
)

from jaxgpt import cli
from jaxgpt.commands.experimenting import _without_train_options
from jaxgpt.errors import UserError
from jaxgpt.experiments.config import EXPERIMENTS


def replaced(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


BAD: list[tuple[str, str, Any, str]] = [
    ("persuasion", "split_valid.json", None, "split_valid.json is missing; get the data"),
    ("persuasion", "split_valid.json", [], "the split valid of .* has 0 dialogues"),
    ("persuasion", "split_train.json", [["hello"]], "a turn that begins with A: or B: belongs"),
    ("camrest", "ardm_test_data.json", None, "ardm_test_data.json is missing"),
    ("camrest", "ardm_val_data.json", [], "ardm_val_data.json has no dialogue"),
    ("camrest", "ardm_train_data.json", "[", "ardm_train_data.json is not JSON"),
    ("camrest", "ardm_test_data.json", [[{"user": "hi", "degree": 1}]], "dialogue 1: replaced_response is None"),
    ("camrest", "ardm_test_data.json", [[{"user": "hi", "degree": "1", "replaced_response": "a"}]], "degree is '1'"),
    ("camrest", "CamRestOTGY.json", None, "CamRestOTGY.json is missing"),
    ("camrest published", "CamRest676.json", None, "CamRest676.json is missing"),
    ("camrest published", "CamRestDB.json", [], "CamRestDB.json has no dialogue or row"),
    ("camrest published", "CamRest676.json", [{"dial": [{"usr": {}}]}], "dialogue 1: KeyError.'slu'.; give"),
    ("multiwoz", "data.json", None, "data.json is missing"),
    ("multiwoz", "testListFile.txt", "OTHER.json\n", "the split test is empty: .* has 3 dialogues"),
    ("multiwoz", "testListFile.txt", None, "testListFile.txt is missing"),
    ("multiwoz", "hotel_db.json", None, "hotel_db.json is missing"),
    ("multiwoz", "data.json", {"MUL0": {"log": []}}, "dialogue MUL0: 'goal' is missing"),
]


@pytest.mark.parametrize(("name", "file", "content", "expected"), BAD)
def test_bad_data_is_named(tmp_path: Path, experiment: Run, name: str, file: str, content: Any, expected: str) -> None:
    raw = tmp_path / "raw"
    if name == "multiwoz":
        write_woz(raw)
    elif name.startswith("camrest"):
        write_camrest(raw)
    else:
        write_persuasion(raw)
    (raw / file).unlink() if content is None else replaced(raw / file, content)
    with pytest.raises(UserError, match=expected):
        experiment(name.split()[0], raw, *([ARDM] if name == "camrest" else []))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "multiwoz",
            ["--valid_list=null", "--test_list=null"],
            r"the splits train \(train_file .*data.json, train_list None\) and valid \(valid_file .*data.json, "
            r"valid_list None\) share 3 dialogues, such as 'MUL0'; give files or lists that have no dialogue in common",
        ),
        ("multiwoz", ["--test_list=valListFile.txt"], r"splits valid .* and test .* share 1 dialogues, such as 'MUL0'"),
        (
            "multiwoz",
            ["--train_list=testListFile.txt"],
            r"splits train .*testListFile.txt\) and test .*testListFile.txt\) share 1 dialogues, such as 'MUL1'",
        ),
        (
            "camrest",
            [ARDM, "--test_file=ardm_train_data.json"],
            r"the splits train \(train_file ardm_train_data.json\) and test \(test_file ardm_train_data.json\) share "
            r"12 dialogues, such as 'thai food for 0",
        ),
        (
            "persuasion",
            ["--valid_file=split_train.json"],
            r"splits train .* and valid \(valid_file split_train.json\) share 10 dialogues, such as 'turn 0 of talk 0",
        ),
    ],
)
def test_a_dialogue_in_two_splits_is_named(
    tmp_path: Path, experiment: Run, name: str, options: list[str], expected: str
) -> None:
    raw = tmp_path / "raw"
    write_woz(raw)
    write_camrest(raw)
    write_persuasion(raw)
    with pytest.raises(UserError, match=expected):
        experiment(name, raw, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--decoding.max_new_tokens=64"], r"--decoding\.max_new_tokens 64 leaves no room .* n_positions 64; try 32"),
        (["--train.model.n_positions", "3"], r"--decoding\.max_new_tokens 3 leaves no room .* n_positions 3; try 1"),
        (["--train.train.max_stepps=3"], r"there is no option train\.max_stepps; did you mean train\.max_steps\?"),
    ],
)
def test_what_the_training_can_not_take_is_named_before_pages_are_made(
    tmp_path: Path, experiment: Run, options: list[str], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        experiment("camrest", write_camrest(tmp_path / "raw"), ARDM, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config is missing"),
        (["--config", "nowhere.yaml"], "nowhere.yaml is missing"),
        (["--config", "{other}"], "experiment is 'other'; it must be one of persuasion, camrest, multiwoz"),
        (["--config", "{bad}"], "is not YAML"),
        (["--config", "{camrest}", "--experiment", "multiwoz"], "--experiment is multiwoz, but .*camrest.yaml is of"),
        (["--config", "{camrest}", "--train_dialogs", "3"], "no option train_dialogs; did you mean train_dialogues"),
        (["--config", "{camrest}", "--row_length", "3"], "row_length is 3"),
        (["--config", "{camrest}", "--reply_batch", "0"], "reply_batch is 0"),
        (["--config", "{persuasion}", "--valid_fraction", "1"], "valid_fraction is 1.0"),
        (["--config", "{output}"], "train.output is set by the experiment; leave it out: give output instead"),
        (["--config", "{path}"], "train.data.path is set by the experiment"),
        (["--config", "{null}"], "train.data is None; it must hold options"),
        (["--config", "{text}"], "train.data is 'x'; it must hold options"),
        (["--config", "{camrest}", "--train.output", "x"], "train.output is set by the experiment"),
        (["--config", "{camrest}", "--train.outp=x"], "train.outp is set by the experiment"),
        (["--config", "{camrest}", "--train.data.path", "x"], "train.data.path is set by the experiment"),
        (["--config", "{camrest}", "--train.data", "x.yaml"], "train.data is set .* are given one by one"),
        (["--config", "{camrest}", "--train.config=x.yaml"], "train.config is set by the experiment"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, arguments: list[str], expected: str) -> None:
    files = {name: CONFIGS / f"{name}.yaml" for name in EXPERIMENTS}
    for name, content in (
        ("other", "experiment: other"),
        ("bad", "a: ["),
        ("output", "experiment: camrest\noutput: x\nraw: y\ntrain: {output: z}\n"),
        ("path", "experiment: camrest\noutput: x\nraw: y\ntrain: {data: {path: z}}\n"),
        ("null", "experiment: camrest\noutput: x\nraw: y\ntrain: {data: null}\n"),
        ("text", "experiment: camrest\noutput: x\nraw: y\ntrain: {data: x}\n"),
    ):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(content)
    with pytest.raises(UserError, match=expected):
        cli.experiment([argument.format(**files) for argument in arguments])


def test_an_option_of_training_takes_no_other_option_as_its_value() -> None:
    own, of_train = _without_train_options(
        ["--train.flag", "--json", "--train.a.b", "-1", "--train.foo", "--raw", "x", "--train.c=d", "--train.last"]
    )
    assert own == ["--json", "--raw", "x"]
    assert of_train == ["--flag", "--a.b", "-1", "--foo", "--c=d", "--last"]
