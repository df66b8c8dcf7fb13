"""Builds that are killed or fail half way: the same command finishes them, with the bytes of an undisturbed build."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from build_command import ROOT, command, run
from built_pages import build, contents
from small_corpora import GOOD

from data_prep.claim import locked
from data_prep.local import local_writer
from data_prep.make import make
from data_prep.options import Options
from jaxgpt.errors import UserError


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes_and_nothing_else(tmp_path):
    """With all its processes, once a shard was finished."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "asked", "why", "it", "never", "rains", "in", "May"]
    texts = [" ".join(rng.choice(words, 11)) for _ in range(1009)]
    talks = [[texts[at] for at in rng.integers(0, 1009, 5)] for _ in range(11_003)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    source, options = f"dialogue:{tmp_path}/talks.jsonl", ("--shards", "7", "--row_length", "127")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    build = subprocess.Popen(
        command(source, killed, *options), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    try:
        while not list(killed.glob(".build/0*.json")):
            assert build.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    finished = list(killed.glob(".build/0*.json"))
    assert 1 <= len(finished) < 7
    assert not (killed / "manifest.json").exists()
    shards = {path: path.stat().st_mtime_ns for done in finished for path in killed.glob(f"pages-*-{done.stem}")}
    assert shards
    done = run(source, killed, *options)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in shards} == shards, "finished shards were built again"
    done = run(source, undisturbed, *options)
    assert done.returncode == 0, done.stderr
    names = [sorted(path.name for path in output.rglob("*")) for output in (killed, undisturbed)]
    assert names[0] == names[1]
    assert contents(killed) == contents(undisturbed)
    assert len(contents(killed)[0]) == 2 * 7 + 3


@pytest.mark.slow
def test_killed_before_the_build_is_recorded(tmp_path):
    """The first thing that a build makes is an empty folder for its record."""
    (tmp_path / "talks.jsonl").write_text(GOOD)
    (tmp_path / "out" / ".build").mkdir(parents=True)
    assert build(tmp_path / "out", [f"dialogue:{tmp_path}/talks.jsonl"]).splits["train"].documents == 1


def test_two_builds_at_one_place(tmp_path):
    (tmp_path / "talks.jsonl").write_text(GOOD)
    output = tmp_path / "out"
    (output / ".build").mkdir(parents=True)
    with locked(output), pytest.raises(UserError, match="another build is writing there"):
        build(output, [f"dialogue:{tmp_path}/talks.jsonl"])
    assert build(output, [f"dialogue:{tmp_path}/talks.jsonl"]).splits["train"].documents == 1


def test_finished_shards_outlive_an_error(tmp_path):
    """A bucket that cannot be reached near the end must not cost what is there."""
    source = tmp_path / "talks.jsonl"
    source.write_text(GOOD * 400)
    options = Options([f"dialogue:{source}"], shards=4, row_length=61, valid_fraction=0)

    def unreachable(plan, shards):
        local_writer(1)(plan, shards[:2])
        raise UserError("the network is down")

    with pytest.raises(UserError, match="the network is down"):
        make(options, tmp_path / "out", 1, unreachable)
    first = tmp_path / "out" / "pages-train.tfrecord-00000-of-00004"
    before = first.stat().st_mtime_ns
    assert make(options, tmp_path / "out", 1).splits["train"].documents == 400
    assert first.stat().st_mtime_ns == before
