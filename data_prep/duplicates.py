"""The pass over the corpus that finds duplicates, before the pages are built without them."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from data_prep.build import Plan, tasks
from data_prep.clean import Cleaning
from data_prep.dedupe import DuplicateFinder, keys_of_items
from data_prep.pool import ordered_pool
from data_prep.sources.chunk import Source
from data_prep.worker import EncodedChunk, Reader, Task
from jaxgpt.progress import progress_bar


def find_duplicates(plan: Plan, processes: int) -> int:
    """Writes the places of all items that are to be left out to the recipe's file; returns how many they are."""
    path = plan.recipe.duplicates
    assert path is not None
    finder = DuplicateFinder(path.parent / "keys", plan.size)
    with (
        ordered_pool(
            processes, partial(_KeyMaker, plan.sources, plan.recipe.cleaning, plan.recipe.strict), Task.size
        ) as work,
        progress_bar(total=plan.size, unit="B", unit_scale=True, desc="duplicates") as bar,
    ):
        for task, (keys, orders) in work(tasks(plan, range(plan.n_shards))):
            finder.add(keys, orders)
            bar.update(task.position - bar.n)
        bar.update(plan.size - bar.n)
    return finder.finish(path)


class _KeyMaker:
    """Keys of a chunk's items by which duplicates find each other, and the items' places."""

    def __init__(self, sources: Sequence[Source], cleaning: Cleaning, strict: bool):
        self._reader, self._cleaning = Reader(sources, cleaning, strict), cleaning

    def __call__(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        numbered = list(self._reader.items(task, EncodedChunk()))
        keys, index = keys_of_items([item for _, item in numbered], self._cleaning)
        return keys, task.orders([number for number, _ in numbered])[index]
