"""cloud/tpu on hosts whose trainings only act: what is started, shown, refused, stopped."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from gcloud_stand_in import World
from tpu_calls import CONFIG, ENDED, rows, tpu, wait_for_exit

from cloud import check_options, hosts, launch, tpu_command

ROOT = Path(__file__).parents[2]
SECRET = "f00d" * 10  # not in this file as it is, which goes to the hosts


def test_from_setup_to_stop(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    said = capsys.readouterr().out
    assert all(re.search(rf"host {worker}: {version}\S* is installed", said) for worker in range(4))
    assert (ready.home(3) / "jaxgpt" / "src" / "jaxgpt" / "cli.py").read_bytes() == (
        ROOT / "jaxgpt" / "cli.py"
    ).read_bytes()

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("UNRELATED", "stays here")
    config = tmp_path / "own.yaml"  # it need not be of the clone
    config.write_text("train: {max_steps: 7}\n")
    assert tpu("train", "--config", str(config), "--data.path", "gs://mine/pages", "--train.max_steps=9") == 0
    for worker in range(4):
        home = ready.home(worker)
        arguments = (home / "arguments").read_text().split()
        kept = home / "jaxgpt" / "configs" / "jaxgpt.yaml"
        assert arguments == [
            *("train", "--config", "configs/jaxgpt.yaml", "--output", "runs/jaxgpt"),
            *("--checkpoint.mirror=gs://mine/runs/jaxgpt", "--log.all_hosts=true"),
            *("--data.path", "gs://mine/pages", "--train.max_steps=9"),
        ]
        assert kept.read_text() == config.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600
        environment = (home / "environment").read_text()
        assert f"WANDB_API_KEY={SECRET}" in environment
        assert "UNRELATED" not in environment
    # The secret is in no command line, file or log.
    assert SECRET not in "\n".join(ready.calls())
    written = [path for path in ready.folder.rglob("*") if path.is_file() and path.name != "environment"]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in capsys.readouterr().out

    assert tpu("status") == 0
    found = rows(capsys)
    assert [row[0] for row in found] == ["0", "1", "2", "3"]
    assert all(row[1] == "yes" and row[3:5] == ["running", "12 of 100"] for row in found)
    assert all(row[-1] == "host 0 of 4: here" for row in found)

    assert tpu("train", "--config", CONFIG) == 2  # a second launch
    refused = capsys.readouterr().err
    assert refused.count("the run jaxgpt is being trained here since") == 4
    assert "(4 of 4 hosts; none of them runs it)" in refused
    assert tpu("train", "--config", CONFIG, "--eval.sample_tokens", "64") == 2  # which is no secret
    assert "secret" not in capsys.readouterr().err
    assert tpu("setup") == 2
    assert "is being trained here since" in capsys.readouterr().err
    assert tpu("status") == 0
    assert all(row[3] == "running" for row in rows(capsys))

    assert tpu("stop") == 0
    assert all(row[3:] == ["stopped", "12 of 100", row[5], row[6]] for row in rows(capsys))
    log = ready.home(0) / "jaxgpt" / "logs" / "jaxgpt.log"
    assert re.search(r"saved\n.*the training ended with exit code 143\n$", log.read_text())
    assert tpu("stop") == 0  # again
    assert tpu("train", "--config", CONFIG) == 0
    assert "--checkpoint.mirror=gs://mine/runs/jaxgpt" in (ready.home(0) / "arguments").read_text()


def test_ends_and_losses_are_shown(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    for worker, act in enumerate(("exit 0", "echo 'error: data.path is wrong'; exit 2", "", "")):
        (ready.home(worker) / "act").write_text(act)
    assert tpu("train", "--config", CONFIG) == 0
    wait_for_exit(ready, 0, 1)
    ready.kill(2)
    with ready.state() as state:
        state["unreachable"] = [3]
    capsys.readouterr()
    assert tpu("status") == 1
    found = rows(capsys)
    assert [row[3] for row in found] == ["done", "failed (2)", "killed", "-"]
    assert [row[1] for row in found] == ["yes", "yes", "yes", "no"]
    assert found[1][-1] == "error: data.path is wrong"
    assert found[3][-1] == "exit code 255: ssh: connect to host 34.90.1.3 port 22: Connection timed out"


def test_the_host_whose_answer_is_lost_does_not_train_on(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = hosts._ask

    def lose(worker: int, command: list[str], *rest: Any) -> hosts.Answer:
        found = ask(worker, command, *rest)
        lost = worker == 1 and any("host.py start" in part for part in command)
        return hosts.Answer(1, {}, "no answer in 120 s", reached=False) if lost else found

    monkeypatch.setattr(hosts, "_ask", lose)
    assert tpu("train", "--config", CONFIG) == 2
    assert "host 1 did not start: no answer in 120 s (1 of 4 hosts" in capsys.readouterr().err
    assert tpu("status") == 1
    assert {row[3] for row in rows(capsys)} <= ENDED


def test_a_start_that_arrives_twice_starts_one(ready: World) -> None:
    version = (ready.home(0) / "jaxgpt" / "version").read_text()
    request = {
        "id": "a",
        "version": version,
        "run": "x",
        "config": "",
        "arguments": [],
        "environment": {},
        "delete_when_done": False,
    }
    host = [sys.executable, str(ready.home(0) / "jaxgpt" / "src" / "cloud" / "host.py")]
    environment = {**os.environ, "HOME": str(ready.home(0))}

    def call(*arguments: str, given: str = "") -> dict[str, Any]:
        done = subprocess.run([*host, *arguments], env=environment, input=given, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1].removeprefix("jaxgpt-host "))

    first = call("start", given=json.dumps(request))
    assert call("start", given=json.dumps(request)) == {
        **first,
        "said": ANY,
        "step": ANY,
        "steps": ANY,
        "disk_free": ANY,
    }
    assert "is being trained here" in call("start", given=json.dumps({**request, "id": "b"}))["error"]
    assert "the connection broke" in call("start")["error"]
    assert call("stop", "0", "watch", "b")["state"] == "running"  # it is of another start
    assert call("stop", "0", "watch", "a")["state"] in ("killed", "failed")  # as much time as it had


def test_a_host_that_never_answers_is_given_up(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ready.state() as state:
        state["hanging"] = [1]
    monkeypatch.setattr(tpu_command.Hosts.status, "__defaults__", (2.0,))
    assert tpu("status") == 1
    assert rows(capsys)[1] == ["1", "no", "-", "-", "-", "-", "no answer in 2 s"]


def test_where_one_host_does_not_start_none_does(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    (ready.home(2) / "jaxgpt" / "version").unlink()
    assert tpu("train", "--config", CONFIG) == 2
    said = capsys.readouterr().err
    assert "host 2 did not start: nothing is installed; cloud/tpu setup does it (1 of 4 hosts" in said
    tpu("status")
    states = [row[3] for row in rows(capsys)]
    assert states.pop(2) == "not set up"
    assert set(states) <= ENDED
    assert tpu("setup") == tpu("train", "--config", CONFIG) == 0


def test_logs_and_commands(ready: World, tmp_path: Path) -> None:
    assert tpu("train", "--config", CONFIG) == 0
    command = [sys.executable, str(ROOT / "cloud" / "tpu")]
    shown = subprocess.run([*command, "logs", "--worker", "2"], capture_output=True, text=True, check=True).stdout
    assert "host 0 of 4: here" in shown
    said = subprocess.run([*command, "ssh", "--worker", "1", "command", "-v", "jaxgpt"], capture_output=True, text=True)
    assert said.stdout.strip() == str(ready.home(1) / "jaxgpt" / "venv" / "bin" / "jaxgpt")
    failed = subprocess.run([*command, "ssh", "--", "exit 7"], capture_output=True, text=True)
    assert failed.returncode == 7


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        ({}, ["--config", "none.yaml"], "--config none.yaml: No such file or directory; give a YAML file"),
        ({}, ["--config", CONFIG, "--train.max_stepps", "3"], "there is no option train.max_stepps; did you mean"),
        (
            {"TYPE": "v3-128"},
            ["--config", CONFIG, "--train.batch_size", "64"],
            "train.batch_size is 64, but v3-128 has 128 devices, which share it evenly; give --train.batch_size 128",
        ),
        (
            {"TYPE": "v3-8"},
            [
                *("--config", CONFIG, "--parallel.num_processes", "16"),
                *("--parallel.coordinator", "a:1", "--parallel.process_id", "0"),
            ],
            "parallel.num_processes is 16, but v3-8 has 1 hosts; leave it out",
        ),
        ({}, ["--config", CONFIG, "--log.wandb.api_key=abc"], "--log.wandb.api_key looks like a secret"),
        ({}, ["--config", CONFIG, "--run", "a/b"], "--run is 'a/b'; give letters"),
        ({}, ["--config", CONFIG, "--delete-when-done"], "--delete-when-done would take the run away with the slice"),
        ({"PURCHASE": "spot"}, ["--config", CONFIG], "PURCHASE is spot, and it would take the run away"),
        ({}, ["--config", CONFIG], "the slice jaxgpt is not there; cloud/tpu create makes it"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_hosts_see_it(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    arguments: list[str],
    expected: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"JAXGPT_{name}", value)
    assert tpu("train", *arguments) == 2
    assert expected in capsys.readouterr().err
    assert not world.calls(" ssh ")


def test_the_number_of_a_section_is_read() -> None:
    text = "seed: 1\ntrain:\n  max_steps: 3\n  batch_size: 64\nparallel:\n  num_processes: null\n  wait: 3\n"
    assert check_options._number(text, "train", "batch_size") == 64
    assert check_options._number(text, "parallel", "num_processes") is None
    assert check_options._number(text, "parallel", "batch_size") is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["setup"],
        ["train", "--config", CONFIG, "--data.path", "gs://mine/pages"],
        ["status"],
        ["logs"],
        ["ssh", "nproc"],
        ["watch", "--config", CONFIG],
        ["stop"],
        ["delete"],
    ],
)
def test_a_dry_run_prints_and_runs_nothing(tmp_path: Path, arguments: list[str]) -> None:
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JAXGPT_ZONE": "us-central1-a", "HOME": str(tmp_path)}
    (tmp_path / "gcloud").write_text("#!/bin/sh\ntouch $HOME/called\n")
    (tmp_path / "gcloud").chmod(0o755)
    environment |= {"JAXGPT_BUCKET": "gs://mine", "JAXGPT_TYPE": "v3-32", "WANDB_API_KEY": SECRET}
    command = [sys.executable, str(ROOT / "cloud" / "tpu"), *arguments[:1], "--dry-run", *arguments[1:]]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\n$ gcloud compute tpus" in f"\n{said}"
    assert SECRET not in said
    assert not (tmp_path / "called").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"gcloud", ".cache"}  # of jaxgpt, which checks the options


def test_options_of_other_commands_are_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tpu("create", "--data.path", "x")
    assert "unknown: --data.path x" in capsys.readouterr().err


def test_a_launch_is_kept_without_secrets(
    ready: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tpu("watch") == 2
    assert "nothing was launched on jaxgpt from here; give --config" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert tpu("train", "--config", CONFIG, "--train.max_steps", "5") == 0
    (folder,) = (Path(os.environ["XDG_STATE_HOME"]) / "jaxgpt" / "slices").iterdir()
    assert SECRET not in (folder / "launch.json").read_text()
    assert not [path for path in folder.iterdir() if SECRET.encode() in path.read_bytes()]
    kept = launch.kept_launch(tpu_command.load_settings())
    assert kept is not None
    assert kept.arguments[-2:] == ["--train.max_steps", "5"]
