"""The loader's memory, in a process of its own, against the size of the data."""

import json
import subprocess
import sys

import numpy as np
import pytest
from written_pages import write_pages

READER = """
import json, sys
from pathlib import Path
from jaxgpt.data.loader import Pages, training_batches, evaluation_batches
def rss_anon():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
pages, rows, largest = Pages(Path(sys.argv[1]), "train"), 0, 0
batches = training_batches(pages, 64, 0)
for number, (batch, position) in enumerate(batches):
    largest = max(largest, rss_anon())
    if position >= pages.n_rows(True): break
for batch in evaluation_batches(pages, 64):
    largest = max(largest, rss_anon())
    rows += len(batch["weights"])
print(json.dumps([largest, rows]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """Every row of 10 MB and of 200 MB, twice: shuffled and in order."""
    megabytes = []
    for name, n_rows in (("small", 1223), ("large", 24_407)):
        (tmp_path / name).mkdir()
        rows = {"tokens": np.broadcast_to(np.arange(2048), (n_rows, 2048))}
        write_pages(tmp_path / name, "stream", 2048, [(rows, n_rows * 2048)])
        size = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
        command = [sys.executable, "-c", READER, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        largest, rows_read = json.loads(done.stdout)
        assert rows_read >= n_rows
        megabytes.append((size / 1e6, largest))
    (small, small_memory), (large, large_memory) = megabytes
    assert small < 11
    assert large > 195
    assert large_memory - small_memory < 30, megabytes
