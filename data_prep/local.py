"""Shards built by a pool of processes on this machine, under one progress bar."""

import time
from collections.abc import Callable
from functools import partial

from data_prep.build import Plan, tasks, write_shards
from data_prep.pool import ordered_pool
from data_prep.worker import ChunkEncoder, EncodedChunk, Task
from jaxgpt.progress import progress_bar

Writer = Callable[[Plan, list[int]], None]


def local_writer(processes: int) -> Writer:
    """Writes the given shards of a plan. The chunks are encoded by the workers and written here, in order."""

    def write(plan: Plan, shards: list[int]) -> None:
        started, documents, tokens = time.monotonic(), 0, 0
        begin = min(shards) * plan.size // plan.n_shards  # what lies before it is of an earlier call
        with (
            ordered_pool(processes, partial(ChunkEncoder, plan.sources, plan.recipe), Task.size) as encode,
            progress_bar(total=plan.size, initial=begin, unit="B", unit_scale=True, desc="pages") as bar,
        ):

            def progress(task: Task, chunk: EncodedChunk) -> None:
                nonlocal documents, tokens
                documents += chunk.counts["kept"]
                tokens += chunk.counts["tokens"]
                speed = tokens / max(time.monotonic() - started, 1e-9)
                bar.set_postfix_str(f"{documents:,} documents, {speed:,.0f} tokens/s", refresh=False)
                bar.update(max(task.position - bar.n, 0))

            write_shards(plan, shards, encode(tasks(plan, shards)), progress)
            bar.update(plan.size - bar.n)

    return write
