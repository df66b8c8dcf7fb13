"""A folder of pages with just these rows."""

from jaxgpt.data.manifest import Manifest, ShardInfo, SplitInfo
from jaxgpt.data.records import PageFormat, ShardWriter

VOCAB = 70_001


def write_pages(folder, kind, row_length, shards):
    """shards: (rows, tokens without padding) each, as the split train; the split valid has no rows."""
    page_format = PageFormat(kind, row_length, VOCAB)
    infos = []
    for number, (rows, n_tokens) in enumerate(shards):
        file = f"pages-train.tfrecord-{number:05d}-of-{len(shards):05d}"
        writer = ShardWriter(folder / file, page_format)
        if n_tokens:
            writer.write(rows)
        writer.close()
        infos.append(ShardInfo(file, writer.records, n_tokens, writer.n_bytes, writer.crc32c))
    splits = {"train": SplitInfo(1, 1, 1, 1, 1, tuple(infos)), "valid": SplitInfo(0, 0, 0, 0, 0, ())}
    format_name = "eos" if kind == "dialogue" else None
    manifest = Manifest(kind, row_length, VOCAB, "gpt2", "", 50256, format_name, None, splits, [], "")
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder
