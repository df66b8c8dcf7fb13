"""Builds of every kind of file at once, killed at random moments: the result is that of an undisturbed build."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backports import zstd
from built_pages import contents
from small_corpora import random_talks, write_talks
from sources.archives import write_archive

from data_prep.clean import Cleaning
from data_prep.make import make
from data_prep.options import Options

ROOT = Path(__file__).parents[2]
SHARDS = 13


def corpus(folder):
    """Plain and packed lines, an archive and a dump, with equal items within and across the first three."""
    talks = random_talks(8000)
    spec = write_talks(folder / "plain.jsonl", talks)
    packed = ("".join(json.dumps(talk) + "\n" for talk in part) for part in (talks[3000:3100], talks[:50]))
    more = ("".join(json.dumps(talk) + "\n" for talk in random_talks(4000, seed=seed)) for seed in (1, 2))
    gz, zst = ((first + second).encode() for first, second in zip(packed, more, strict=True))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(gz))
    (folder / "packed.jsonl.zst").write_bytes(zstd.compress(zst))
    words = [" ".join(talk) for talk in random_talks(3000, seed=3)]
    subsets = {
        f"openwebtext/urlsf_subset{number:02d}_data.xz": {
            f"{number}-{at}.txt": text.encode() for at, text in enumerate(words[number::10])
        }
        for number in range(10)
    }
    write_archive(folder / "openwebtext.tar.xz", subsets)
    lines = []
    for number, (first, second, *_) in enumerate(random_talks(3000, seed=4)):
        link = f"t3_{number}"
        for name, parent, text in (("a", link, first), ("b", f"t1_{number}a", second)):
            comment = {"id": f"{number}{name}", "link_id": link, "parent_id": parent, "body": text, "score": 2}
            lines.append(json.dumps(comment) + "\n")
    (folder / "RC_2010-01.zst").write_bytes(zstd.compress("".join(lines).encode()))
    paths = ("dialogue:{}/packed.jsonl.*", "openwebtext:{}/openwebtext.tar.xz", "reddit:{}/RC_*.zst")
    return [spec, *(path.format(folder) for path in paths)]


def finished(output):
    """The files of the finished shards, with their times."""
    done = list(output.glob(".build/0*-of-*.json"))
    return {path: path.stat().st_mtime_ns for result in done for path in output.glob(f"pages-*-{result.stem}")}


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    sources, output = corpus(tmp_path), tmp_path / "killed"
    command = [sys.executable, str(Path("data_prep") / "make_tfrecords.py"), "--source", *sources]
    command += ["--output", str(output), "--processes", "2", "--shards", str(SHARDS), "--row_length", "127"]
    command += ["--valid_fraction", "0.1", "--clean.duplicates", "exact"]

    moments = random.Random(11)
    # The first two at any time from the start on, the others once there are so many shards more.
    kept = 0
    for kill in range(4):
        before = finished(output)
        build = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        wanted = len(list(output.glob(".build/0*-of-*.json"))) + moments.randint(1, 3)
        pause = moments.uniform(0.3, 2) if kill < 2 else moments.uniform(0, 0.05)
        try:
            while kill >= 2 and len(list(output.glob(".build/0*-of-*.json"))) < wanted and build.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(pause)
        finally:
            over = build.poll()
            os.killpg(build.pid, signal.SIGKILL) if over is None else None
            build.wait()
        assert over is None, "the build ended before it could be killed"
        assert not (output / "manifest.json").exists()
        after = finished(output)
        assert {path: after.get(path) for path in before} == before, "finished shards were built again"
        kept += bool(before)
    assert kept, "no shard was finished before a kill"
    before = finished(output)
    assert 0 < len(before) < 2 * SHARDS
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards were built again"

    options = Options(sources, row_length=127, shards=SHARDS, valid_fraction=0.1, clean=Cleaning(duplicates="exact"))
    manifest = make(options, tmp_path / "undisturbed", 1)
    assert [source.get("dropped: duplicate", 0) for source in manifest.sources][:2] == [0, 150]
    assert all(source["kept"] > 1000 for source in manifest.sources)
    assert contents(output) == contents(tmp_path / "undisturbed")
