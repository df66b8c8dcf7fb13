"""The command line: fast help, and one sentence with exit code 2 for every mistake."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgpt import cli
from jaxgpt.command import run


def refuse(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs `jaxgpt` in this process; it must exit 2 with one line on stderr, which is returned."""
    monkeypatch.setattr(sys, "argv", ["jaxgpt", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_help_names_every_command_and_is_fast() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "jaxgpt", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jaxgpt", command, "--help"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 0
    assert f"usage: jaxgpt {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean train?"),
        (["fly"], "the commands are train, plan, perplexity"),
        (["train", "--output", "x", "--model.n_embed", "3"], "no option model.n_embed; did you mean model.n_embd?"),
        (["train", "--output", "x", "--model.n_layer", "many"], '"model.n_layer"'),
        (["train", "--output", "x", "--model.n_layer", "-3"], "model.n_layer is -3; it must be above 0"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train"], "output"),
        (["train", "--output", "x", "--data.path", "nowhere"], "nowhere/manifest.json is missing"),
        (["perplexity", "--model", "nowhere", "--data", "x"], "nowhere is no folder"),
        (["export", "nowhere", "--output", "x"], "nowhere is no folder"),
        (["chat", "--model", "nowhere"], "nowhere is no folder"),
        (["import", "x", "--output", "o", "--format", "foo"], "--format is 'foo'; it must be one of eos, tags, sep"),
        (["export", "x", "--output", "o", "--dtype", "f8"], "--dtype is 'f8'; it must be one of float32, bfloat16"),
        (["generate", "--model", "x", "--prompt", "a", "--stop", "b"], "--stop is a list; write --stop+ b"),
        (["generate", "--model", "a--b", "--prompt", "a"], "a--b is no folder or file here"),
        (
            ["chat", "--model", "x", "--host", "0.0.0.0"],
            "--host, --port and --password_file are of the page in the browser; add",
        ),
        (["chat", "--model", "x", "--temperature", "-1"], "--temperature is -1.0; it must be 0"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refuse(arguments, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("output: x\nmodel: {n_embed: 3}\n", "no option model.n_embed; did you mean model.n_embd?"),
        ("output: x\nlog: {wandb: {mod: online}}\n", "no option log.wandb.mod; did you mean log.wandb.mode?"),
        ("output: x\noptimiser: {b1: 0.5}\n", "no option optimiser.b1; did you mean optimizer.b1?"),
        ("output: x\nmodel: {n_embd: wide}\n", "model.n_embd"),
        ("output: x\ntrain: 3\n", "train is 3; it is a section, with fields such as train.max_steps"),
        ("output: x\nmodel: [1]\n", "model is [1]; it is a section"),
        ("output: [\n", "config"),
    ],
)
def test_a_bad_config_file_is_one_sentence(
    content: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(content)
    assert expected in refuse(["train", "--config", "c.yaml"], monkeypatch, capsys)


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def write_until_full() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    with pytest.raises(SystemExit) as leaving:
        run(write_until_full)
    assert leaving.value.code == 2
    assert "No space left on device" in capsys.readouterr().err


INTERRUPTED_COMMANDS = {
    "works": "signal.raise_signal(signal.SIGINT)",
    "imports": "import interrupted_module",
    "collects": "gc.callbacks.append(ask_once)\ngc.collect()\ntime.sleep(30)",
}


@pytest.mark.parametrize("command", INTERRUPTED_COMMANDS.values(), ids=INTERRUPTED_COMMANDS)
def test_ctrl_c_is_one_line(command: str, tmp_path: Path) -> None:
    # As compiled modules do: what interrupts them becomes an error of another kind.
    (tmp_path / "interrupted_module.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('initialization failed')\n"
    )
    script = f"""
import gc, signal, sys, time
from jaxgpt import cli

def ask_once(phase, info):
    gc.callbacks.remove(ask_once)
    signal.raise_signal(signal.SIGINT)

def command(arguments):
    exec({command!r}, globals())

cli.COMMANDS["train"] = command
sys.argv = ["jaxgpt", "train"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr == "interrupted; what was finished stays, and the same command may be given again\n"
    assert done.stdout == ""
    assert done.returncode == 130


def test_a_terminal_that_lacks_a_character_gets_another() -> None:
    code = "import sys; from jaxgpt import cli; cli.main(); print('caf\\u00e9 \\u2026 \\U0001f600')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"caf\xe9 ? ?"


def test_an_error_of_ours_is_not_hidden() -> None:
    def divide() -> None:
        1 / 0  # noqa: B018  # the error is the point

    with pytest.raises(ZeroDivisionError):
        run(divide)


def test_output_ends_with_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    from jaxgpt.command import print_json

    print("text before")
    print_json({"a": 1.5, "b": None})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"a": 1.5, "b": None}
