"""The command as a whole: options, exit codes, JSON, and that no secret is printed."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run

from jaxgpt import cli
from jaxgpt.config import CheckpointConfig, Config, DataConfig
from jaxgpt.doctor import examine
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.examine import Asked
from jaxgpt.errors import UserError


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", ["jaxgpt", "doctor", *arguments])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What the command asks for, one a call; all is well but what --bucket is, a level."""
    calls: list[Asked] = []

    def found(one: Asked) -> list[Line]:
        calls.append(one)
        return [Line("ok", "first", "well"), Line(one.bucket or "ok", "second", "what; the way out")]  # type: ignore[arg-type]

    monkeypatch.setattr(examine, "examine", found)
    return calls


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_is_1_where_something_fails(
    level: str, code: int, asked: list[Asked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--bucket", level, "--json"], monkeypatch) == code
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "ok    first          well"
    assert second == f"{level:4}  second         what; the way out"
    assert json.loads(last) == {
        "checks": [
            {"level": "ok", "name": "first", "said": "well"},
            {"level": level, "name": "second", "said": "what; the way out"},
        ],
        "ok": code == 0,
    }


@pytest.mark.parametrize(
    ("arguments", "has_config", "has_data"),
    [
        ([], False, False),
        (["--bucket", "ok", "--all_hosts", "--wait", "5"], False, False),
        (["--parallel.coordinator=a:1", "--parallel.num_processes=2", "--parallel.process_id=0"], False, False),
        (["--data", "pages"], False, True),
        (["--data=pages"], False, True),
        (["--data.path", "pages"], False, True),
        (["--train.batch_size", "64", "--data", "pages"], True, True),
        (["--config", "configs/gpt2_small.yaml", "--data=pages"], True, True),
    ],
)
def test_what_is_looked_at(
    arguments: list[str], has_config: bool, has_data: bool, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert run(arguments, monkeypatch) == 0
    (one,) = asked
    assert (one.has_config, one.has_data) == (has_config, has_data)
    if has_data:
        assert one.cfg.data.path == "pages"
    assert (one.wait, one.all_hosts) == ((5, True) if "--wait" in " ".join(arguments) else (30, False))
    assert one.cfg.parallel.num_processes == (2 if "--parallel.num_processes=2" in arguments else None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no_such"], "there is no option no_such"),
        (["--wait", "0"], "--wait is 0; it must be above 0 seconds"),
        (["--bucket", ""], "--bucket is empty; give gs://BUCKET/FOLDER, or a folder"),
        (["--bucket="], "--bucket is empty; give gs://BUCKET/FOLDER, or a folder"),
        (["--data="], "data.path is empty; give a folder of pages, or gs://BUCKET/FOLDER"),
        (["--model.n_embed", "3"], "did you mean model.n_embd?"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_code_2(
    arguments: list[str],
    said: str,
    asked: list[Asked],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(arguments, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert asked == []


def test_a_check_that_can_not_begin_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise UserError("it is broken; mend it")

    for name in ("check_versions", "check_devices", "check_disks"):
        monkeypatch.setattr(examine, name, broken)
    lines = list(examine.examine(Asked(Config(output="."), False, False, None, False, 1)))
    assert [(line.level, line.name) for line in lines] == [
        ("ok", "machine"),
        ("fail", "packages"),
        ("fail", "devices"),
        ("fail", "disk"),
        ("ok", "memory"),
    ]


def test_a_machine_that_can_not_be_looked_at_costs_no_other_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("by zero")

    for name in ("find_hardware", "check_devices"):
        monkeypatch.setattr(examine, name, broken)
    assert run(["--json"], monkeypatch) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = {check["name"]: check["level"] for check in report["checks"]}
    assert found["machine"] == found["devices"] == "fail"
    assert {"python", "disk", "memory"} <= found.keys()


def test_an_interrupt_leaves_time_to_tidy_up(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, tidy = threading.Event(), []

    def place(url: str, writes: bool) -> Iterator[Line]:
        at_work.set()
        time.sleep(0.3)
        tidy.append(url)
        yield Line("ok", "bucket", url)

    def interrupted(machine: object) -> Iterator[Line]:
        return iter([Line("ok", "python", "well")])

    monkeypatch.setattr(examine, "check_place", place)
    monkeypatch.setattr(examine, "check_versions", interrupted)
    monkeypatch.setattr(examine, "check_devices", lambda *args: iter([]))
    lines = examine.examine(Asked(Config(output="."), False, False, "gs://a", False, 1))
    assert next(lines).name == "machine"
    assert at_work.wait(5)
    with pytest.raises(KeyboardInterrupt):
        lines.throw(KeyboardInterrupt)
    assert tidy == ["gs://a"]


def test_the_places_of_a_run_and_which_of_them_are_written_to() -> None:
    cfg = Config(".", data=DataConfig("gs://a/pages"), checkpoint=CheckpointConfig(mirror="gs://b/run"))
    assert examine._places(Asked(cfg, True, True, "gs://c", False, 1)) == {
        "gs://a/pages": False,
        "gs://b/run": True,
        "gs://c": True,
    }
    assert examine._places(Asked(cfg, False, True, None, False, 1)) == {"gs://a/pages": False}
    assert examine._places(Asked(Config("."), True, True, None, False, 1)) == {}


@pytest.mark.slow
def test_a_run_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it, with a key that is never shown: the service is at a port where nobody is."""
    pages = tiny_run.make_pages(tmp_path, "eos")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output: {tmp_path / 'run'}\ndata: {{path: {pages}}}\nmodel: {{n_embd: 24, n_head: 3, n_layer: 2}}\n"
        "train: {batch_size: 24}\nlog: {wandb: {mode: online}}\n"
    )
    key = "s3cret" * 7
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    (tmp_path / "bucket").mkdir()
    arguments = ["--config", str(config), "--bucket", str(tmp_path / "bucket"), "--json"]
    assert run(arguments, monkeypatch) == 0
    printed = capsys.readouterr()
    assert key not in printed.out + printed.err
    report = json.loads(printed.out.splitlines()[-1])
    assert report["ok"] is True
    names = [check["name"] for check in report["checks"]]
    assert names[:7] == ["machine", "python", "jaxgpt", "jax", "packages", "hosts", "devices"]
    assert names[7:] == ["batch", "disk", "disk", "memory", "bucket", "pages", "tokenizer", "wandb"]
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert {name for name, level in levels.items() if level == "warn"} <= {"packages", "jaxgpt", "python", "wandb"}
    assert levels["wandb"] == "warn"
    assert {check["name"]: check["said"] for check in report["checks"]}["batch"] == (
        "24 sequences a step, 3 a device (devices: 8)"
    )
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "bucket").iterdir())
