"""Shards built by Apache Beam, on this machine or on a cluster, by the same function and so with the same bytes.

Every worker has to see the output folder, and the inputs, under the same paths: a shared file system; inputs may also
be in a bucket.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.build import Plan, tasks, write_shards
from data_prep.local import Writer
from data_prep.worker import ChunkEncoder
from jaxgpt.errors import UserError

_READ_FROM_THE_START = (".gz", ".xz", ".zst", ".bz2", ".tar")


def beam_writer(options: list[str]) -> Writer:
    """options: Beam's own, `--runner=FlinkRunner` for example; without any its runner on this machine is used."""

    def write(plan: Plan, shards: list[int]) -> None:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError:
            raise UserError("--runner beam needs Apache Beam; pip install apache-beam") from None

        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            groups = pipeline | beam.Create(list(groups_of_shards(plan, shards))) | beam.Reshuffle()
            _ = groups | beam.Map(lambda group: write_group(plan, group))

    return write


def groups_of_shards(plan: Plan, shards: list[int]) -> Iterator[list[int]]:
    """Runs of shards for one worker each: those that share a file which can only be read from its start."""
    inside: set[int] = set()  # shards that begin within such a file
    for begin, end in _unsplittable(plan):
        first = begin * plan.n_shards // max(plan.size, 1)
        inside |= {shard for shard in range(first + 1, plan.n_shards) if shard * plan.size < end * plan.n_shards}
    group: list[int] = []
    for shard in sorted(shards):
        if group and not (shard in inside and shard == group[-1] + 1):
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _unsplittable(plan: Plan) -> Iterator[tuple[int, int]]:
    base = 0
    for source in plan.sources:
        files = source.fingerprint()
        at = base
        for file in files:
            end = at + file["bytes"] if "bytes" in file else base + source.size
            if "bytes" not in file or Path(file["path"]).suffix in _READ_FROM_THE_START:
                yield at, end
            at = end
        base += source.size


_encoders: dict[Path, ChunkEncoder] = {}  # one per process and output: a tokenizer takes a second to load


def write_group(plan: Plan, shards: list[int]) -> None:
    """What a worker does with its shards."""
    if plan.output not in _encoders:
        _encoders[plan.output] = ChunkEncoder(plan.sources, plan.recipe)
    encode = _encoders[plan.output]
    write_shards(plan, shards, ((task, encode(task)) for task in tasks(plan, shards)), _no_progress)


def _no_progress(*_: Any) -> None:
    """Beam has its own."""
