"""Shards built by Apache Beam, on this machine or on a cluster, by the same function and so with the same bytes.

Every worker has to see the output folder, and the inputs, under the same paths: a shared file system; inputs may also
be in a bucket.
"""

import re
import threading
from collections.abc import Iterator
from typing import Any

from data_prep.build import Plan, tasks, write_shards
from data_prep.local import Writer
from data_prep.worker import ChunkEncoder
from jaxgpt.errors import UserError

_worker = threading.local()  # a runner may give a worker several threads


def beam_writer(options: list[str]) -> Writer:
    """options: Beam's own, `--runner=FlinkRunner` for example; without any its runner on this machine is used.

    UserError for a runner that Beam does not know.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.runner import create_runner
    except ImportError:
        raise UserError("--runner beam needs Apache Beam; pip install apache-beam") from None
    chosen = PipelineOptions(options)
    try:
        runner = create_runner(chosen.view_as(StandardOptions).runner or StandardOptions.DEFAULT_RUNNER)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam_options {' '.join(options)}: {error}") from None

    def write(plan: Plan, shards: list[int]) -> None:
        try:
            with beam.Pipeline(runner=runner, options=chosen) as pipeline:
                groups = pipeline | beam.Create(list(groups_of_shards(plan, shards))) | beam.Reshuffle()
                _ = groups | beam.Map(lambda group: write_group(plan, group))
        except UserError as error:  # Beam adds where in its pipeline that was
            raise UserError(re.sub(r" \[while running .*", "", str(error), flags=re.DOTALL)) from None

    return write


def groups_of_shards(plan: Plan, shards: list[int]) -> Iterator[list[int]]:
    """Runs of shards for one worker each: those that share a stretch which can only be read from its start."""
    inside: set[int] = set()  # shards that begin within such a stretch
    base = 0
    for source in plan.sources:
        for begin, end in source.unsplittable():
            first = (base + begin) * plan.n_shards // max(plan.size, 1) + 1
            last = -(-(base + end) * plan.n_shards // max(plan.size, 1))
            inside |= set(range(first, last))
        base += source.size
    group: list[int] = []
    for shard in sorted(shards):
        if group and not (shard in inside and shard == group[-1] + 1):
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def write_group(plan: Plan, shards: list[int]) -> None:
    """What a worker does with its shards. Its encoder stays for the next ones: a tokenizer takes a while to load."""
    if getattr(_worker, "plan", None) != plan:
        _worker.plan, _worker.encode = plan, ChunkEncoder(plan.sources, plan.recipe)
    encode = _worker.encode
    write_shards(plan, shards, ((task, encode(task)) for task in tasks(plan, shards)), _no_progress)


def _no_progress(*_: Any) -> None:
    """Beam has its own."""
