"""A data set of TensorFlow Datasets with a feature of text, or of a list of turns. It has to be prepared already."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.examples import ExampleSource, example_chunks, holds_of
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Tfds(ExampleSource):
    """name: as `tfds.builder` takes it, or the folder of a prepared data set; size: bytes as its own info says."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        examples = _examples(_builder(self.spec, self.name), self.split)
        return example_chunks(examples, self.spec, self.field, 0, self.size, self.n_examples, chunk_bytes)


def open_tfds(spec: str, target: str, field: str) -> Tfds:
    """target: NAME[:split]; the split is train unless named. UserError where there is no such data."""
    name, _, split = target.partition(":")
    split = split or "train"
    builder = _builder(spec, name)
    if split.split("[")[0] not in builder.info.splits:
        raise UserError(f"--source {spec}: no split {split!r}; it has {', '.join(builder.info.splits) or 'none'}")
    info = builder.info.splits[split]
    first = next(iter(_examples(builder, split)), None)
    if first is None:
        raise UserError(f"--source {spec}: the split {split!r} has no examples")
    holds = holds_of(first, spec, field)
    size = max(info.num_bytes, info.num_examples)
    version = f"{builder.info.full_name} in {builder.data_dir}, {info.num_bytes} bytes, {info.shard_lengths}"
    return Tfds(spec, name, split, field, holds, size, info.num_examples, version)


def _builder(spec: str, name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"--source {spec} needs its packages; pip install tensorflow-datasets tensorflow") from None
    try:
        builder = tfds.builder_from_directory(name) if Path(name).is_dir() else tfds.builder(name)
    except Exception as error:  # the library raises several kinds, of its own and of its back ends
        reason = " ".join(str(error).split()).split(" Available datasets")[0]
        raise UserError(f"--source {spec}: {reason[:300]}; check the name") from None
    if not builder.info.splits:
        raise UserError(
            f"--source {spec} is not prepared in {builder.data_dir}; run `tfds build` or `download_and_prepare` first"
        )
    return builder


def _examples(builder: Any, split: str) -> Any:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # it only reads
    # One file after the other: the order is that of the files whatever the machine.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=config))
