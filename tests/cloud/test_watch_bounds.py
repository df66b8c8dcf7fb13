"""What a watch must not do: cost without end, delete what is well, start what is not meant."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gcloud_stand_in import World

from cloud import kept, slices, tpu_command, watch
from cloud.settings import load_settings
from cloud.source import Code

CONFIG = "configs/gpt2_small.yaml"
Watched = Callable[..., tuple[int, str]]


def tpu(*arguments: str) -> int:
    return tpu_command.main(list(arguments))


def nothing() -> None:
    pass


def hours_of_the_last(world: World) -> float:
    """That the slice made last may live."""
    found = re.search(r"jaxgpt-hours=([\d.]+)", world.calls("tpu-vm create")[-1])
    assert found
    return float(found[1])


def test_a_new_slice_whose_hosts_are_not_up_yet_is_waited_for(actors: World, watched: Watched) -> None:
    actors.fail("host.py install", "ssh: connect to host 34.90.1.0 port 22: Connection refused", times=3, code=255)
    code, said = watched("--config", CONFIG, events=[nothing, nothing, actors.finish])
    assert code == 0
    assert "was not set up: exit code 255: ssh: connect to host 34.90.1.0 port 22: Connection refused" in said
    assert said.count("is started on 2 hosts") == 1


def test_starts_that_fail_are_given_up(actors: World, watched: Watched) -> None:
    def lose() -> None:
        actors.kill(1)
        actors.fail("host.py install", "No space left on device", times=1000)

    code, said = watched("--config", CONFIG, events=[nothing, lose, *8 * [nothing]])
    assert code == 1
    assert "3 restarts made no step; the slice stays: cloud/tpu delete ends its cost" in said
    # The first, and those of both hosts in each of three restarts.
    assert len(actors.calls("host.py install")) == 2 + 3 * 2


def test_slices_with_a_host_that_never_answers_are_given_up(actors: World, watched: Watched) -> None:
    code, said = watched("--config", CONFIG, events=[nothing, *40 * [lambda: actors.cut(1)]])
    assert code == 1
    assert "3 restarts made no step" in said
    assert len(actors.calls("tpu-vm create")) == 2  # the second has the same trouble and is not replaced


def test_a_slice_keeps_the_hours_that_it_was_made_with(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tpu("create", "--max-hours", "100") == tpu("setup") == tpu("train", "--config", CONFIG) == 0
    with actors.state() as state:
        born = time.gmtime(time.time() - 30 * 3600)
        state["nodes"]["jaxgpt"]["createTime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", born)
    assert load_settings().max_hours == "24"
    code, said = watched(events=[nothing, actors.preempt, nothing, actors.finish])
    assert code == 0
    assert "MAX_HOURS" not in said
    assert hours_of_the_last(actors) == pytest.approx(70, abs=0.1)


def test_a_second_watch_counts_the_hours_of_the_first(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time

    def lose() -> None:
        monkeypatch.setattr(watch.time, "time", lambda: now() + 20 * 3600)
        actors.preempt()
        actors.fail("tpu-vm create", "ERROR: There is no more capacity in the zone")

    def close() -> None:
        raise KeyboardInterrupt

    code, _ = watched("--config", CONFIG, events=[nothing, lose, close])
    assert code == 130
    monkeypatch.setattr(watch.time, "time", now)
    code, _ = watched(events=[actors.finish])
    assert code == 0
    assert hours_of_the_last(actors) == pytest.approx(4, abs=0.1)


def test_at_the_end_of_the_hours_the_training_saves_first(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time

    def pass_time() -> None:
        monkeypatch.setattr(watch.time, "time", lambda: now() + 23.9 * 3600)

    code, said = watched("--config", CONFIG, events=[nothing, pass_time])
    assert code == 1
    assert "MAX_HOURS are over, at step 12 of 100; it saves, and the slice is deleted" in said
    (log,) = actors.folder.glob("gone-*/0/jaxgpt/logs/jaxgpt.log")
    assert "saved" in log.read_text()


def test_a_secret_that_is_missing_is_said_before_anything_is_stopped(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f00d")
    assert tpu("create") == tpu("setup") == tpu("train", "--config", CONFIG) == 0
    monkeypatch.delenv("WANDB_API_KEY")
    assert watched(events=[])[0] == 2
    assert actors.host_state(0)["exit"] is actors.host_state(1)["exit"] is None


def test_restarts_run_the_code_that_was_launched(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_the_clone() -> None:
        monkeypatch.setattr(tpu_command, "pack", lambda: Code("another", b""))
        actors.kill(1)

    code, _ = watched("--config", CONFIG, events=[nothing, change_the_clone, nothing, actors.finish])
    assert code == 0
    versions = {(actors.home(worker) / "jaxgpt" / "version").read_text() for worker in range(2)}
    assert versions == {kept.kept_code(load_settings()).version}
    assert "another" not in versions


def test_hosts_that_are_silent_now_and_then_lose_no_slice(actors: World, watched: Watched) -> None:
    on_and_off = 8 * [lambda: actors.cut(1), lambda: actors.cut()]
    code, said = watched("--config", CONFIG, events=[nothing, *on_and_off, actors.finish])
    assert code == 0
    assert not actors.calls("tpu-vm delete")
    assert "made anew" not in said


def test_looks_that_reach_no_host_count_for_nothing(actors: World, watched: Watched) -> None:
    events = [nothing, *8 * [lambda: actors.cut(0, 1)], lambda: actors.cut(1), lambda: actors.cut(), actors.finish]
    code, _ = watched("--config", CONFIG, events=events)
    assert code == 0
    assert not actors.calls("tpu-vm delete")


@pytest.mark.parametrize(
    "state", [{"state": "DELETING"}, {"state": "SUSPENDED", "stateInitiator": "USER"}, {"state": "SUSPENDING"}]
)
def test_a_queued_slice_that_a_person_gives_up_is_not_asked_for_again(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch, state: dict[str, str]
) -> None:
    monkeypatch.setenv("JAXGPT_PURCHASE", "queued-spot")
    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 0.0)

    def give_up() -> None:
        with actors.state() as known:
            known["nodes"].pop("jaxgpt")
            known["requests"]["jaxgpt"]["state"] = state
        (actors.folder / "hosts" / "jaxgpt").rename(actors.folder / "gone")

    events = [nothing, give_up, *([nothing, actors.finish] if state["state"] == "SUSPENDING" else [])]
    code, said = watched("--config", CONFIG, events=events)
    by_the_cloud = state["state"] == "SUSPENDING"
    assert code == (0 if by_the_cloud else 1)
    assert ("the slice was deleted, at step 12 of 100" in said) is not by_the_cloud
    assert len(actors.calls("queued-resources create")) == 1 + by_the_cloud


def test_a_run_that_is_not_meant_is_not_watched(
    actors: World,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tpu("create") == tpu("setup") == tpu("train", "--config", CONFIG, "--run", "a") == tpu("stop") == 0
    with monkeypatch.context() as elsewhere:  # another laptop
        elsewhere.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
        assert tpu("setup") == tpu("train", "--config", CONFIG, "--run", "b") == 0
    assert watched(events=[])[0] == 2
    assert actors.host_state(0)["run"] == "b"
    assert actors.host_state(0)["exit"] is None


def test_two_watches_of_one_slice_are_one_too_many(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []
    code, _ = watched("--config", CONFIG, events=[lambda: codes.append(tpu("watch")), actors.finish])
    assert (code, codes) == (0, [2])


def test_a_launch_that_cannot_be_read_is_said(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.write(load_settings(), "launch.json", b'{"run": "a", "con')
    assert tpu("watch") == 2
    assert "what was launched on jaxgpt can't be read any more" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-5", "0", "nan", "inf"])
def test_pauses_that_are_none_are_refused(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tpu("watch", "--every", seconds, "--config", CONFIG)
    assert f"argument --every: {seconds} is not above 0" in capsys.readouterr().err


def test_an_answer_that_is_cut_off_ends_no_watch(actors: World, watched: Watched) -> None:
    def cut_off() -> None:
        file = actors.home(1) / "jaxgpt" / "src" / "cloud" / "host.py"
        file.write_text(
            file.read_text().replace("print(MARK + json.dumps(values), flush=True)", 'print(MARK + "{", 1)')
        )

    def mend() -> None:
        file = actors.home(1) / "jaxgpt" / "src" / "cloud" / "host.py"
        file.write_text(
            file.read_text().replace('print(MARK + "{", 1)', "print(MARK + json.dumps(values), flush=True)")
        )

    code, said = watched("--config", CONFIG, events=[nothing, cut_off, mend, actors.finish])
    assert code == 0
    assert "at step 12 of 100: host 1: its answer is cut off: {" in said
