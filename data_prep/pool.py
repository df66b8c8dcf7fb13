"""Shards built by a pool of processes under one progress bar."""

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from data_prep.build import Job, build_shard
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.progress import progress_bar

_tokenizer: Tokenizer
_done: Any


def _start_worker(tokenizer_folder: Path, done: Any) -> None:
    global _tokenizer, _done
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer, _done = load_tokenizer(str(tokenizer_folder)), done


def _end_with_parent() -> None:
    """A killed parent's workers would wait for more work for ever, or write beside those of the next call."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job) -> None:
    def progress(n_bytes: int) -> None:
        with _done.get_lock():
            _done.value += n_bytes

    build_shard(job, _tokenizer, progress)


def build_all(jobs: list[Job], tokenizer_folder: Path, processes: int) -> None:
    """Runs the jobs in a pool of processes under a progress bar in bytes of input."""
    context = get_context("spawn")
    done = context.Value("q", 0)
    total = sum(block.stop - block.start for job in jobs for _, _, block in job.blocks)
    # One thread of the tokenizer in each process: the processes are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with ProcessPoolExecutor(processes, context, _start_worker, (tokenizer_folder, done)) as pool:
        futures = [pool.submit(_work, job) for job in jobs]
        with progress_bar(total=total, unit="B", unit_scale=True, desc="pages") as bar:
            try:
                while not all(future.done() for future in futures):
                    if any(future.done() and future.exception() for future in futures):
                        break
                    bar.update(done.value - bar.n)
                    time.sleep(0.05)
                for future in futures:
                    if future.done():
                        future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            bar.update(done.value - bar.n)
