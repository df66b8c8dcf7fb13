"""The two JSON files by which TensorFlow Datasets opens a folder of pages (`tfds.builder_from_directory`)."""

import json
from pathlib import Path

from jaxgpt.data.atomic import write_text
from jaxgpt.data.manifest import Manifest

_FEATURES = "tensorflow_datasets.core.features"


def write_tfds_files(folder: Path, manifest: Manifest) -> None:
    """Writes dataset_info.json and features.json. Columns are TFDS tensors with `encoding: bytes`.

    Source: TFDS's `dataset_info.proto` and `feature.proto`, version 4.9.
    """
    page_format = manifest.page_format
    columns = {
        name: {
            "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
            "tensor": {
                "shape": {"dimensions": [str(page_format.row_length)]},
                "dtype": dtype.newbyteorder("=").name,
                "encoding": "bytes",
            },
        }
        for name, dtype in page_format.columns.items()
    }
    features = {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": columns},
    }
    info = {
        "name": "pages",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "description": f"{manifest.kind} pages of {manifest.row_length} tokens, tokenizer {manifest.tokenizer}",
        "splits": [
            {
                "name": name,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(shard.records) for shard in split.shards],
                "numBytes": str(sum(shard.bytes for shard in split.shards)),
            }
            for name, split in manifest.splits.items()
        ],
    }
    write_text(folder / "features.json", json.dumps(features, indent=1) + "\n")
    write_text(folder / "dataset_info.json", json.dumps(info, indent=1) + "\n")
