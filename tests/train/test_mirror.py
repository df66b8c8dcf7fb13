"""A run's copy in a bucket on loopback: whole or not taken, and never a reason to stop."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bucket_server import BUCKET
from small_states import run_state, small, small_shapes

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.train import mirror, remote_run
from jaxgpt.train.checkpoint import FOLDER, read_run_state, read_saved, read_state, steps
from jaxgpt.train.remote_run import fetch_if_gone, holds_checkpoint
from jaxgpt.train.saving import Checkpoints

URL = f"gs://{BUCKET}/runs/mine"
NEVER = 1e6  # hours


@pytest.fixture
def bucket(server, monkeypatch):
    server.empty()
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.01)
    return server


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "config.yaml").write_text(f"output: {folder}\n")
    return folder


def config(last: int = 2, best: int = 0) -> CheckpointConfig:
    return CheckpointConfig(keep_last=last, keep_every_hours=NEVER, keep_best=best, mirror=URL)


def in_bucket(bucket) -> dict[str, bytes]:
    return {name.removeprefix("runs/mine/"): content for name, content in bucket.objects().items()}


def files_of(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def steps_in(bucket) -> list[int]:
    return sorted({int(name.split("/")[1]) for name in in_bucket(bucket) if name.startswith(FOLDER)})


def save(run: Path, cfg: CheckpointConfig, losses: dict[int, float], said: list[str]) -> None:
    with Checkpoints(run, cfg, said.append) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(small(step), run_state(step), {"valid_loss": loss})
        (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in losses))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_bucket_gets_all_and_the_seal_of_a_checkpoint_last(bucket, run):
    said = []
    save(run, config(last=9), {1: 1.0, 2: 1.0}, said)
    assert said == []
    assert in_bucket(bucket) == files_of(run)
    for step in (1, 2):
        sent = [name for name in bucket.begun if f"{FOLDER}/{step}/" in name]
        assert sent[-1].endswith(f"{step}/files.json")
        assert len(sent) == len(set(sent))


def test_what_came_after_the_seal_is_sent_and_fetched_and_what_is_no_part_of_the_run_is_not(bucket, run):
    said = []
    save(run, config(last=9), {1: 1.0, 2: 1.0}, said)
    sent = in_bucket(bucket)
    (run / "hf").mkdir()
    (run / "hf" / "model.safetensors").write_bytes(b"an export")
    with Checkpoints(run, config(last=9), said.append) as checkpoints:
        checkpoints.add_metrics(2, {"valid_loss": 0.5})
        checkpoints.add_way_back(replace(run_state(2), position=99))
    assert in_bucket(bucket).keys() - sent.keys() == {f"{FOLDER}/2/metrics/later", f"{FOLDER}/2/run/way_back"}
    shutil.rmtree(run)
    run.mkdir()
    fetch_if_gone(run, URL, said.append)
    assert read_saved(run, 2).metrics["valid_loss"] == 0.5
    assert read_run_state(run, 2).position == 99


def test_a_checkpoint_in_the_bucket_that_can_t_be_read_stays_and_stops_nothing(bucket, run):
    said = []
    save(run, config(last=2), {1: 1.0, 2: 1.0}, said)
    bucket.put(f"runs/mine/{FOLDER}/1/metrics/metrics", b"{")
    shutil.rmtree(run / FOLDER / "1")
    save(run, config(last=1), {3: 1.0}, said)
    assert 3 in steps_in(bucket)
    assert 1 in steps_in(bucket)
    assert said == []


def test_what_retention_removes_is_removed_there_too(bucket, run):
    said = []
    save(run, config(last=1, best=1), {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}, said)
    assert steps(run) == [1, 2, 4]
    assert steps_in(bucket) == [1, 2, 4]
    assert in_bucket(bucket) == files_of(run)
    save(run, config(last=1, best=1), {5: 0.5}, said)
    assert steps_in(bucket) == steps(run) == [1, 5]
    assert said == []


def test_what_an_earlier_process_had_no_time_for_is_made_up(bucket, run, monkeypatch):
    """It was killed before it could send step 3 and remove steps 2 (whole there) and 9 (a half upload)."""
    said = []
    save(run, config(last=2), {1: 1.0, 2: 1.0}, said)
    with monkeypatch.context() as alone:
        alone.setattr(mirror.Mirror, "_pass", lambda self, closing: None)
        save(run, config(last=1), {3: 1.0}, said)
    bucket.put(f"runs/mine/{FOLDER}/9/params/w/0", b"half")
    assert (steps(run), steps_in(bucket)) == ([1, 3], [1, 2, 9])
    with Checkpoints(run, config(last=1), said.append):
        until(lambda: steps_in(bucket) == [1, 3])
    assert in_bucket(bucket) == files_of(run)
    assert said == []


def test_a_bucket_that_vanishes_is_said_once_and_caught_up_with(bucket, run):
    said = []
    with Checkpoints(run, config(last=9), said.append) as checkpoints:
        checkpoints.save(small(1), run_state(1), {})
        checkpoints.wait()
        until(lambda: f"{FOLDER}/1/files.json" in in_bucket(bucket))
        bucket.fault = lambda method, path: 503
        for step in (2, 3):
            checkpoints.save(small(step), run_state(step), {})
        checkpoints.wait()
        until(lambda: len(said) == 1 and len(bucket.requests) > 20)
        assert steps(run) == [1, 2, 3]
        bucket.heal()
        until(lambda: len(said) == 2)
        assert steps_in(bucket) == [1, 2, 3]
    assert said[0].startswith(f"checkpoint.mirror {URL} fails: ")
    assert said[0].endswith(f"training goes on, checkpoints are saved in {run}, and it is tried again")
    assert said[1] == f"checkpoint.mirror {URL} works again and has all checkpoints"
    assert in_bucket(bucket) == files_of(run)


def test_a_bucket_that_stays_away_is_not_waited_for(bucket, run):
    said = []
    bucket.fault = lambda method, path: 403
    save(run, config(), {1: 1.0, 2: 1.0}, said)
    assert steps(run) == [1, 2]
    assert "access is denied" in said[0]
    assert said[1:] == [
        f"{URL} lacks step 1, step 2, the logs; all is in {run}, and the same command sends it when it is run again"
    ]
    bucket.heal()
    save(run, config(), {}, said)
    assert in_bucket(bucket) == files_of(run)
    assert len(said) == 2


def test_a_bucket_that_hangs_blocks_neither_saving_nor_the_end(bucket, run, monkeypatch):
    monkeypatch.setattr(mirror, "_PATIENCE_S", 0.2)
    said, go_on = [], threading.Event()

    def fault(method, path):
        bucket.lock.release()  # a server that does not answer this request
        go_on.wait(60)
        bucket.lock.acquire()

    bucket.fault = fault
    began = time.monotonic()
    save(run, config(), {1: 1.0, 2: 1.0}, said)
    assert time.monotonic() - began < 10
    assert steps(run) == [1, 2]
    assert said[0].startswith(f"{URL} lacks step 1, step 2, the logs")
    go_on.set()
    until(lambda: not any(thread.name == "mirror" for thread in threading.enumerate()))


def test_what_does_not_arrive_as_it_was_sent_is_sent_again(bucket, run, tmp_path, monkeypatch):
    said, spoiled, real = [], [], remote_run.send

    def send(path, url, on_progress):
        if path.name == "0" and len(spoiled) < 3:
            spoiled.append(path)
            path = tmp_path / "spoiled"
            path.write_bytes(b"something else")
        real(path, url, on_progress)

    monkeypatch.setattr(remote_run, "send", send)
    with Checkpoints(run, config(), said.append) as checkpoints:
        checkpoints.save(small(1), run_state(1), {})
        until(lambda: len(said) == 2)
    assert "what arrived was not what was sent" in said[0]
    assert in_bucket(bucket) == files_of(run)
    assert len([name for name in bucket.begun if name.endswith("1/files.json")]) == 1


def test_a_checkpoint_damaged_on_this_disk_is_not_sent(bucket, run):
    said = []
    save(run, CheckpointConfig(keep_last=9), {1: 1.0, 2: 1.0}, said)
    weights = run / FOLDER / "1" / "params" / "w" / "0"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    save(run, config(last=9), {3: 1.0}, said)
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint 1 is not copied to {URL}: ")
    assert f"{FOLDER}/1/files.json" not in in_bucket(bucket)
    assert {f"{FOLDER}/{step}/files.json" for step in (2, 3)} < in_bucket(bucket).keys()


def test_a_run_whose_folder_is_gone_is_fetched(bucket, run):
    said = []
    save(run, config(), {1: 1.0, 2: 1.0}, said)
    before = files_of(run)
    shutil.rmtree(run)
    bucket.put(f"runs/mine/{FOLDER}/7/params/w/0", b"half of an upload")
    run.mkdir()
    assert holds_checkpoint(URL)
    assert not holds_checkpoint(f"{URL}/elsewhere")
    fetch_if_gone(run, URL, said.append)
    assert said == [f"{run}: fetched step 2 from {URL}"]
    assert files_of(run) == {name: content for name, content in before.items() if f"{FOLDER}/1/" not in name}
    assert read_run_state(run, 2) == run_state(2)
    assert read_state(run, 2, small_shapes()).params["w"].tolist() == [2.0] * 3
    # It goes on as the same run, and nothing that stayed in the bucket is lost by that.
    save(run, config(), {3: 1.0}, said)
    assert steps(run) == [2, 3]
    assert steps_in(bucket) == [1, 2, 3]
    fetch_if_gone(run, URL, said.append)
    assert len(said) == 1


def test_a_damaged_copy_is_named_and_the_one_before_is_fetched(bucket, run, tmp_path):
    said = []
    save(run, config(), {1: 1.0, 2: 1.0}, said)
    bucket.put(f"runs/mine/{FOLDER}/2/run/metadata", b"{}")
    other = tmp_path / "other"
    other.mkdir()
    fetch_if_gone(other, URL, said.append)
    assert said == [
        f"{URL}/{FOLDER}/2/run/metadata is missing or not what was sent; trying the checkpoint before",
        f"{other}: fetched step 1 from {URL}",
    ]
    shutil.rmtree(other)
    other.mkdir()
    bucket.put(f"runs/mine/{FOLDER}/1/files.json", b"[]")
    with pytest.raises(UserError, match=f"all checkpoints in {URL} are damaged"):
        fetch_if_gone(other, URL, said.append)
    assert steps(other) == []


def test_without_the_bucket_no_second_run_begins(bucket, run):
    bucket.fault = lambda method, path: "drop"
    with pytest.raises(UserError, match=r"nobody knows whether checkpoint\.mirror holds a checkpoint of .*check"):
        fetch_if_gone(run, URL, print)
    bucket.heal()
    said = []
    save(run, CheckpointConfig(), {1: 1.0}, said)
    bucket.fault = lambda method, path: "drop"
    fetch_if_gone(run, URL, said.append)
    assert said[0].startswith("checkpoint.mirror can't be reached: ")


def test_another_run_s_mirror_and_other_things_are_left_alone(bucket, run, tmp_path):
    said = []
    save(run, config(), {1: 1.0}, said)
    before = bucket.objects()
    other = tmp_path / "other"
    save(other, CheckpointConfig(), {5: 1.0}, said)
    with pytest.raises(UserError, match=f"checkpoint.mirror {URL} holds another run than {other}; give a new folder"):
        fetch_if_gone(other, URL, print)
    save(other, config(), {6: 1.0}, said)
    assert "holds another run" in said[0]
    assert bucket.objects() == before
    bucket.empty()
    bucket.put("runs/mine/thesis.tex", b"...")
    with pytest.raises(UserError, match=r"already holds something else \(thesis\.tex\)"):
        fetch_if_gone(run, URL, print)
    bucket.empty()
    bucket.put("runs/mine/.doctor-0123456789ab/probe", b"here")  # which a doctor that was killed leaves
    save(run, config(), {2: 1.0}, [])
    assert any(name.startswith("runs/mine/checkpoints/2/") for name in bucket.objects())
