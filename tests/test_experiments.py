"""The three experiments at their smallest, from raw data to the table, and what is said where the data is wrong."""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_woz import meal, write_raw

from data_prep import make_tfrecords
from jaxgpt import cli
from jaxgpt.commands.experimenting import _without_train_options
from jaxgpt.data.dialogue import FORMATS, Conversation, EncodedConversation, cut
from jaxgpt.data.manifest import load_manifest
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.data.verify import verify
from jaxgpt.errors import UserError
from jaxgpt.evaluate.dialogue_nll import measure_dialogue
from jaxgpt.evaluate.scoring import JaxScorer
from jaxgpt.evaluate.subject import open_subject
from jaxgpt.evaluate.tasks.camrest import load_ontology, measure_camrest
from jaxgpt.experiments import pages, persuasion, replies, running
from jaxgpt.experiments.camrest_data import read_ardm, read_published
from jaxgpt.experiments.config import EXPERIMENTS, CamRestExperiment, PersuasionExperiment, kind_of
from jaxgpt.experiments.prepare import prepare
from jaxgpt.experiments.replies import contexts, generate
from jaxgpt.model_config import ModelConfig

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs" / "experiments"
REAL = REPOSITORY.parent / "shared" / "data"
TINY = [
    "--train.init_from=null",
    "--train.train.max_steps=1",
    "--train.train.dropout=false",
    "--train.train.batch_size=8",
    "--train.optimizer.warmup_steps=1",
    "--train.optimizer.learning_rate=1e-3",  # with the next one: the same step for all, which is compiled once
    "--train.loss.label_smoothing=0",
    "--train.model.n_positions=64",
    "--train.model.n_embd=8",
    "--train.model.n_layer=1",
    "--train.model.n_head=2",
    "--train.eval.every=1",
    "--train.log.tensorboard=false",
    "--row_length=64",
    "--decoding.max_new_tokens=3",
    "--reply_batch=6",  # no test has fewer turns, so that this is compiled once, too
]
ARDM = "--dialogues_file=null"  # of camrest: the split in ARDM's form
ONTOLOGY = {"informable": {"food": ["thai", "chinese"], "area": ["north", "south"]}}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command with every step in this process, and returns its report."""

    def step(command: list[str]) -> dict[str, Any]:
        said = io.StringIO()
        with redirect_stdout(said):
            if command[:2] == ["-m", "jaxgpt"]:
                cli.COMMANDS[command[2]]([*command[3:], "--json"])
            else:
                monkeypatch.setattr(sys, "argv", [*command, "--processes", "1", "--verify=false", "--json"])
                make_tfrecords.main()
        return json.loads(said.getvalue().splitlines()[-1])

    for module in (pages, persuasion, running):
        monkeypatch.setattr(module, "run_step", step)

    def run(name: str, raw: Path, *options: str) -> dict[str, Any]:
        output = tmp_path / "out"
        config = ["--config", str(CONFIGS / f"{name}.yaml"), "--raw", str(raw), "--output", str(output)]
        cli.experiment([*config, *TINY, *options])
        verify(output / "pages")
        return json.loads((output / "report.json").read_text())

    return run


def say(number: int, turns: int = 4) -> list[str]:
    return [f"{'AB'[turn % 2]}:turn {turn} of talk {number}" for turn in range(turns)]


def search(number: int) -> list[dict[str, Any]]:
    both = {"dial_id": number, "degree": number % 4}
    return [
        {**both, "user": f"thai food for {number}", "replaced_response": "<name_SLOT> is <food_SLOT> ."},
        {**both, "user": "where ?", "replaced_response": "at <address_SLOT> in the north ."},
    ]


ROWS = [
    {"name": "bangkok city", "address": "24 Green Street", "area": "north", "food": "thai", "phone": "01223 354382"},
    {"name": "bangkok", "address": "24 Green", "area": "north", "food": "chinese", "postcode": "C.B 2, 1 A.B"},
]


def published(number: int) -> dict[str, Any]:
    """The same in the form of CamRest676.json."""
    slu = [{"act": "inform", "slots": [["area", "north"]]}, {"act": "inform", "slots": [["food", "dontcare"]]}]
    asks = {"transcript": f" something north for {number}", "slu": slu}
    said = "Bangkok City and bangkok serve thai and Chinesey food in the north . 24 green streets"
    wants = {"transcript": "phone ?", "slu": [{"act": "request", "slots": [["slot", "phone"]]}]}
    told = "01223 354382 , cb21ab or 24 Green Street"
    return {"dial": [{"usr": asks, "sys": {"sent": said}}, {"usr": wants, "sys": {"sent": told}}]}


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


def write_camrest(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for split, begin, end in (("train", 0, 12), ("val", 12, 16), ("test", 16, 20)):
        dialogues = [search(number) for number in range(begin, end)]
        (folder / f"ardm_{split}_data.json").write_text(json.dumps(dialogues))
    (folder / "CamRestOTGY.json").write_text(json.dumps(ONTOLOGY))
    (folder / "CamRest676.json").write_text(json.dumps([published(number) for number in range(20)]))
    (folder / "CamRestDB.json").write_text(json.dumps(ROWS))
    return folder


def write_persuasion(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "split_train.json").write_text(json.dumps([say(number) for number in range(10)]))
    (folder / "split_valid.json").write_text(json.dumps([say(10), say(11, 2), say(12, 20)]))
    return folder


def write_woz(folder: Path) -> None:
    write_raw(folder, {f"MUL{number}.json": meal(number) for number in range(3)})
    (folder / "valListFile.txt").write_text("MUL0.json\n")
    (folder / "testListFile.txt").write_text("MUL1.json\n")


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


def test_what_stands_before_each_turn_of_the_system() -> None:
    talk = Conversation.alternating(["a", "b", "c", "d", "e"])
    assert [[turn.text for turn in before] for before in contexts(talk)] == [["a"], ["a", "b", "c"]]


def write_run(folder: Path) -> Path:
    """What says of a run which weights it has."""
    run = folder / "run"
    (run / "checkpoints" / "5").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {}")
    (run / "checkpoints" / "5" / "files.json").write_text('{"params/x": {"bytes": 1, "crc32c": "00"}}')
    return run


def test_replies_are_kept_for_the_same_weights_and_format_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Answers:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def batches(self, talks: list[Any], role: int, done: frozenset[int]) -> Iterator[dict[int, str]]:
            asked.append(len(talks))
            yield {number: f"reply {len(asked)}" for number in range(len(talks))}

    monkeypatch.setattr("jaxgpt.train.models.load_model", lambda run: SimpleNamespace(step=5))
    monkeypatch.setattr("jaxgpt.chat.answering.Answerer", Answers)
    run, talks = write_run(tmp_path), [Conversation.alternating(["a", "b", "c", "d"])]
    files = run / "checkpoints" / "5" / "files.json"
    cfg = CamRestExperiment("camrest", str(tmp_path), "raw")
    assert generate(cfg, run, talks) == generate(cfg, run, talks) == [["reply 1", "reply 1"]]
    files.write_text('{"params/x": {"bytes": 1, "crc32c": "01"}}')  # trained again, on other pages
    assert generate(cfg, run, talks) == [["reply 2", "reply 2"]]
    assert generate(replace(cfg, format="eos"), run, talks) == [["reply 3", "reply 3"]]
    assert asked == [2, 2, 2]


def test_a_killed_call_goes_on_behind_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[int] = []
    most = 3

    class Answers:
        """Two at a time, from the last to the first, and killed after so many batches."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def batches(self, talks: list[Any], role: int, done: frozenset[int]) -> Iterator[dict[int, str]]:
            rest = [number for number in reversed(range(len(talks))) if number not in done]
            for begin in range(0, len(rest), 2):
                if begin == 2 * most:
                    raise KeyboardInterrupt
                answered.extend(rest[begin : begin + 2])
                yield {number: f"to {talks[number][-1].text}" for number in rest[begin : begin + 2]}

    monkeypatch.setattr("jaxgpt.train.models.load_model", lambda run: SimpleNamespace(step=5))
    monkeypatch.setattr("jaxgpt.chat.answering.Answerer", Answers)
    monkeypatch.setattr(replies, "_BLOCK", 4)
    run, cfg = write_run(tmp_path), CamRestExperiment("camrest", str(tmp_path), "raw")
    talks = [Conversation.alternating([f"{n}{turn}" for turn in "abcdef"]) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        replies.generate(cfg, run, talks)
    assert answered == [8, 7, 6, 5, 4, 3]
    kept = json.loads((tmp_path / "replies.json").read_text())["replies"]
    assert kept == [[None] * 3, [None, None, "to 1e"], ["to 2a", "to 2c", "to 2e"]]

    most = 99
    expected = [[f"to {n}{turn}" for turn in "ace"] for n in range(3)]
    assert replies.generate(cfg, run, talks) == expected
    assert answered[6:] == [4, 3, 2, 1, 0]
    assert json.loads((tmp_path / "replies.json").read_text())["replies"] == expected
    assert replies.generate(cfg, run, talks) == expected
    assert len(answered) == 11


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


def test_persuasion(tmp_path: Path, experiment: Run) -> None:
    report = experiment("persuasion", write_persuasion(tmp_path / "raw"))
    assert (report["train_dialogues"], report["valid_dialogues"], report["steps"]) == (10, 3, 1)
    # Twenty turns of some ten tokens do not fit into 64 positions.
    assert report["cut_dialogues"] == 1
    subject = open_subject(str(tmp_path / "out" / "run"), None, None, None)
    sums = []
    for number, turns in ((10, 4), (11, 2), (12, 20)):
        talk = Conversation.alternating([text[2:] for text in say(number, turns)])
        found = measure_dialogue(subject.scorer, subject.tokenizer, FORMATS["tags"], [talk], with_roles=False)
        sums.append((found.by_role[0].nll_sum + found.by_role[1].nll_sum, sum(role.tokens for role in found.by_role)))
    assert report["dialogue_mean_perplexity"] == pytest.approx(sum(math.exp(nll / n) for nll, n in sums) / 3, rel=1e-5)
    nll, n = map(sum, zip(*sums, strict=True))
    assert report["corpus_perplexity"] == pytest.approx(math.exp(nll / n), rel=1e-5)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "1 of 3 dialogues are longer than the 65 tokens that the model takes at once and were cut" in table
    assert "| 9.92 |" in table


def test_only_what_is_measured_in_pieces_is_counted_as_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxgpt.train import models

    tokenizer, tags = load_tokenizer("gpt2"), FORMATS["tags"]
    found = models.FoundModel("x", ModelConfig(n_positions=64), tokenizer, "tags", 1, lambda like: like)
    monkeypatch.setattr(models, "find_model", lambda name: found)

    def encoded(talk: Conversation) -> EncodedConversation:
        return tags.join(talk, tokenizer.encode_batch([tags.turn_text(turn) for turn in talk.turns]), tokenizer)

    rest = 64 - len(encoded(Conversation.alternating(["a"])).ids)
    talks = [Conversation.alternating(["a" + " a" * (rest + more)]) for more in range(3)]
    assert [len(encoded(talk).ids) for talk in talks] == [64, 65, 66]
    assert [len(cut(encoded(talk), JaxScorer(found.cfg, {}).context)) for talk in talks] == [1, 1, 2]
    cfg = PersuasionExperiment("persuasion", "out", "raw")
    assert persuasion._longer_than_context(cfg, talks, Path("run")) == (65, 1)


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


def write_csv(path: Path, dialogues: int) -> None:
    rows = [f"{turn},text {turn} of {number},{number},{turn % 2}" for number in range(dialogues) for turn in range(4)]
    path.write_text("\n".join([",Unit,B2,B4", *rows]) + "\n")


def test_a_split_by_chance_is_the_same_every_time(tmp_path: Path) -> None:
    write_csv(tmp_path / "full_dialog.csv", 20)

    def split(seed: int) -> tuple[list[str], list[str]]:
        cfg = PersuasionExperiment("persuasion", "out", str(tmp_path), dialogues_file="full_dialog.csv", seed=seed)
        prepared = persuasion.prepare(cfg)
        train, valid = ([talk.turns[0].text for talk in part] for part in (prepared.train, prepared.valid))
        return train, valid

    train, valid = split(0)
    assert (len(train), len(valid), len({*train, *valid})) == (18, 2, 20)
    assert (train, valid) == split(0) != split(1)
    assert train == sorted(train, key=lambda text: int(text.split()[-1]))


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
        (["--decoding.max_new_tokens=64"], "decoding: --max_new_tokens 64 leaves no room .* n_positions 64; try 32"),
        (["--train.model.n_positions", "3"], "decoding: --max_new_tokens 3 leaves no room .* n_positions 3; try 1"),
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
