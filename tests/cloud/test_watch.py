"""What a watch makes of hosts and slices, on trainings that only act."""

import re
import time
from collections.abc import Callable

import pytest
from gcloud_stand_in import World

from cloud import tpu_command, watch
from cloud.errors import NoCapacityError
from cloud.watch import patiently

CONFIG = "configs/gpt2_small.yaml"


def test_capacity_is_waited_for_with_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(watch.time, "sleep", pauses.append)

    def ask() -> bool:
        if len(pauses) < 6:
            raise NoCapacityError("none left")
        return True

    assert patiently(ask, 60)
    assert pauses == [60, 120, 240, 480, 600, 600]
    assert capsys.readouterr().out.count("none left; the next try is in") == 6


Watched = Callable[..., tuple[int, str]]
Event = Callable[[], object]


def test_from_nothing_to_done_and_deleted(actors: World, watched: Watched) -> None:
    code, said = watched("--config", CONFIG, "--delete-when-done", events=[lambda: None, actors.finish])
    assert code == 0
    assert re.search(r"jaxgpt is started on 2 hosts\n.*step 12 of 100\n.*the run jaxgpt is done, at step 12\n", said)
    assert len(actors.calls("tpu-vm create")) == len(actors.calls("tpu-vm delete")) == 1


def test_a_lost_host_is_started_again_and_a_lost_slice_is_made_again(actors: World, watched: Watched) -> None:
    def lose_host() -> None:
        actors.kill(1)

    events = [lose_host, lambda: None, actors.preempt, lambda: None, actors.finish]
    code, said = watched("--config", CONFIG, events=events)
    assert code == 0
    assert re.search(r"host 1 killed with exit code None: .*\n.*\n?starting again from the last checkpoint", said)
    assert "the slice was taken away, at step 12 of 100" in said
    assert said.count("jaxgpt is started on 2 hosts") == 3
    assert len(actors.calls("tpu-vm create")) == 2
    assert len(actors.calls("tpu-vm delete")) == 1  # of the name that was left; the slice stays


def test_stockouts_are_sat_out(actors: World, watched: Watched) -> None:
    actors.fail("tpu-vm create", 'ERROR: There is no more capacity in the zone "us-central1-a"', times=2)
    code, said = watched("--config", CONFIG, events=[lambda: None, lambda: None, actors.finish])
    assert code == 0
    assert "has no v4-16 left just now" in said
    assert "the next try is in 7 s" in said
    assert "the next try is in 14 s" in said


def test_a_mistake_is_not_tried_again(actors: World, watched: Watched) -> None:
    code, said = watched("--config", CONFIG, events=[lambda: actors.finish(2)])
    assert code == 1
    assert "host 1 failed with exit code 2" in said
    assert "it is not started again; the slice stays: cloud/tpu delete ends its cost" in said
    assert said.count("is started on") == 1


def test_what_makes_no_step_is_given_up(actors: World, watched: Watched) -> None:
    code, said = watched("--config", CONFIG, events=[lambda: None, *4 * [lambda: actors.finish(1)]])
    assert code == 1
    assert said.count("starting again") == 3
    assert "3 restarts made no step" in said


def test_a_stop_by_hand_ends_the_watch_and_watch_again_goes_on(actors: World, watched: Watched) -> None:
    code, said = watched("--config", CONFIG, events=[lambda: tpu_command.main(["stop"])])
    assert code == 1
    assert "somebody stopped it" in said
    code, said = watched(events=[actors.finish])  # without --config
    assert code == 0
    assert "is started on 2 hosts" in said


def test_a_running_training_is_watched_and_no_other_is_started(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tpu_command.main(["create"]) == tpu_command.main(["setup"]) == 0
    assert tpu_command.main(["train", "--config", CONFIG]) == 0
    assert tpu_command.main(["watch", "--config", CONFIG, "--train.max_steps", "5"]) == 2
    said = capsys.readouterr().err
    assert "the run jaxgpt is trained there, and not by these options; leave --config out to watch it" in said
    code, said = watched(events=[actors.finish])
    assert code == 0
    assert "is started" not in said


def test_the_command_that_started_a_training_watches_it_when_it_is_given_again(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    class ClosedError(Exception):
        pass

    def close() -> None:
        raise ClosedError

    with pytest.raises(ClosedError):
        watched("--config", CONFIG, events=[close])
    capsys.readouterr()
    code, said = watched("--config", CONFIG, events=[actors.finish])
    assert code == 0
    assert "this is what was launched already; the watch goes on with it" in said
    assert "is started" not in said


def test_a_restart_that_fails_is_tried_again(actors: World, watched: Watched) -> None:
    def lose() -> None:
        actors.kill(1)
        actors.fail("host.py install", "ssh: connect to host 34.90.1.0 port 22: Connection refused", code=255)

    code, said = watched("--config", CONFIG, events=[lose, lambda: None, actors.finish])
    assert code == 0
    assert re.search(r"host . was not set up: exit code 255: ssh: connect to host .*refused \(1 of 2 hosts", said)
    assert said.count("jaxgpt is started on 2 hosts") == 2


def test_a_slice_that_could_not_be_made_again_is_asked_for_again(actors: World, watched: Watched) -> None:
    def lose() -> None:
        actors.preempt()
        actors.fail("tpu-vm create", "ERROR: (gcloud.compute.tpus.tpu-vm.create) INTERNAL: something broke")

    code, said = watched("--config", CONFIG, events=[lose, lambda: None, actors.finish])
    assert code == 0
    assert "INTERNAL: something broke" in said
    assert said.count("is started on 2 hosts") == 2


def test_a_laptop_that_reaches_no_host_deletes_nothing(actors: World, watched: Watched) -> None:
    def cut(workers: list[int]) -> None:
        with actors.state() as state:
            state["unreachable"] = workers

    events = [lambda: cut([0, 1]), *8 * [lambda: None], lambda: cut([]), actors.finish]
    code, said = watched("--config", CONFIG, events=events)
    assert code == 0
    assert "host 0: exit code 255: ssh: connect" in said
    assert len(actors.calls("tpu-vm create")) == 1


def test_hosts_that_do_not_end_with_the_others_are_ended(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MOST_LATE", 1)

    def finish_one() -> None:
        (actors.home(0) / "end").write_text("0")
        until = time.monotonic() + 10
        while actors.host_state(0)["exit"] is None and time.monotonic() < until:
            time.sleep(0.02)

    code, said = watched("--config", CONFIG, events=[finish_one, *2 * [lambda: None], actors.finish])
    assert code == 0
    assert re.search(r"some hosts are done, and others do not end\n.*starting again", said)


def test_what_makes_no_step_for_long_is_said(actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_QUIET_SECONDS", 0.0)
    code, said = watched("--config", CONFIG, events=[*2 * [lambda: None], actors.finish])
    assert code == 0
    assert "no step for 0 min; cloud/tpu logs may tell why" in said


def test_a_refused_watch_keeps_the_launch_that_runs(
    actors: World, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tpu_command.main(["create"]) == tpu_command.main(["setup"]) == 0
    assert tpu_command.main(["train", "--config", CONFIG, "--run", "good"]) == 0
    assert tpu_command.main(["watch", "--config", CONFIG, "--run", "other"]) == 2
    assert tpu_command.main(["watch", "--run", "other"]) == 2
    assert "--run other: that is of a new training; give --config as well" in capsys.readouterr().err
    code, said = watched(events=[actors.finish])
    assert (code, "the run good is done" in said) == (0, True)


def test_without_a_bucket_or_a_secret_nothing_is_watched(
    actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert tpu_command.main(["create"]) == tpu_command.main(["setup"]) == 0
    assert tpu_command.main(["train", "--config", CONFIG]) == tpu_command.main(["stop"]) == 0
    monkeypatch.delenv("WANDB_API_KEY")
    assert tpu_command.main(["watch"]) == 2
    assert (
        "WANDB_API_KEY: set when jaxgpt was launched, and not now; export it, and give the command"
        in capsys.readouterr().err
    )
    monkeypatch.delenv("JAXGPT_BUCKET")
    assert tpu_command.main(["watch"]) == 2
    assert "its run has to be in a bucket; set BUCKET" in capsys.readouterr().err


def test_a_slice_that_somebody_deleted_stays_deleted(actors: World, watched: Watched) -> None:
    events = [lambda: tpu_command.main(["delete"])]
    code, said = watched("--config", CONFIG, "--delete-when-done", events=events)
    assert code == 1  # at step 12 of 100 it was not done
    assert "the slice was deleted" in said
    assert len(actors.calls("tpu-vm create")) == 1


def test_hours_are_of_all_slices_together(actors: World, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time

    def pass_time(hours: float) -> None:
        monkeypatch.setattr(watch.time, "time", lambda: now() + hours * 3600)

    def lose() -> None:
        pass_time(0.5)
        actors.preempt()

    # The second slice is made now, as the stand-in has no other time, so that it is half an hour old at once.
    code, said = watched("--config", CONFIG, "--max-hours", "1", events=[lambda: None, lose, lambda: None])
    assert code == 1
    assert "the slice was taken away, at step 12 of 100" in said
    assert "MAX_HOURS are over, at step 12 of 100; it saves, and the slice is deleted" in said
    first, second = (re.search(r"jaxgpt-hours=([\d.]+)", call) for call in actors.calls("tpu-vm create"))
    assert first
    assert second
    assert float(first[1]) == 1
    assert float(second[1]) == pytest.approx(0.5, abs=0.02)


def test_a_laptop_that_was_offline_goes_on(actors: World, watched: Watched) -> None:
    def offline() -> None:
        actors.fail("describe", "ERROR: (gcloud.compute.tpus.tpu-vm.describe) There was a problem: no route", times=1)

    code, said = watched("--config", CONFIG, events=[offline, lambda: None, actors.finish])
    assert code == 0
    assert "There was a problem: no route" in said


def test_hosts_that_stay_silent_without_a_step_are_replaced(actors: World, watched: Watched) -> None:
    def cut() -> None:
        with actors.state() as state:
            state["unreachable"] = [1]

    code, said = watched("--config", CONFIG, events=[cut, *6 * [lambda: None], actors.finish])
    assert code == 0
    assert re.search(r"at step 12 of 100: host 1: .*Connection timed out\n.*no answer and no step any more", said)
    assert len(actors.calls("tpu-vm create")) == 2
