"""Small folders of pages, written without data_prep; a token is a byte, so that all can be counted by hand."""

from pathlib import Path

import numpy as np
import tokenizers

from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, SplitInfo
from jaxgpt.data.records import PageFormat, ShardWriter
from jaxgpt.data.tokenizer import END_OF_TEXT, Tokenizer

LENGTH = 31
EOS = 256
STREAMS = {"train": [["Hello world, how are you today?", "Fine"], ["Second shard"]], "valid": [["A last document"]]}
# (text, role, weight) of each turn
TALKS = [
    [("Hi there", 0, 1.0), ("Hello!", 1, 1.0)],
    [("How?", 0, 0.0), ("So", 1, 0.5)],
    [("Who are you?", 1, 1.0), ("Me", 0, 1.0)],
]


def byte_tokenizer() -> Tokenizer:
    """256 bytes and end-of-text, in the order of the bytes' characters."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer("bytes", backend)


def stream_rows(documents: list[str]) -> tuple[dict[str, np.ndarray], int]:
    """(rows, tokens without the filling)"""
    ids = [EOS] + [token for text in documents for token in [*byte_tokenizer().encode(text), EOS]]
    filled = ids + [EOS] * (-len(ids) % LENGTH)
    return {"tokens": np.array(filled).reshape(-1, LENGTH)}, len(ids)


def dialogue_rows(rows: list[list[list[tuple[str, int, float]]]]) -> tuple[dict[str, np.ndarray], int]:
    """The same of conversations, those of a row together."""
    arrays = {name: np.zeros((len(rows), LENGTH)) for name in ("tokens", "segments", "roles", "weights")}
    total = 0
    for row, conversations in enumerate(rows):
        at = 0
        for segment, turns in enumerate(conversations, start=1):
            first = at
            for text, role, weight in turns:
                ids = [*byte_tokenizer().encode(text), EOS]
                here = (row, slice(at, at + len(ids)))
                for name, value in (("tokens", ids), ("segments", segment), ("roles", role), ("weights", weight)):
                    arrays[name][here] = value
                at += len(ids)
            arrays["weights"][row, first] = 0
        total += at
    return {**arrays, "tokens": arrays["tokens"].astype(np.int64)}, total


def make_pages(folder: Path, kind: str) -> Manifest:
    """Two shards of train, of two rows and of one, and one of valid, of one row."""
    tokenizer = byte_tokenizer()
    tokenizer.save(folder / TOKENIZER_FOLDER)
    page_format = PageFormat(kind, LENGTH, 257)
    content = {
        "stream": {name: [stream_rows(documents) for documents in shards] for name, shards in STREAMS.items()},
        "dialogue": {
            "train": [dialogue_rows([TALKS[:2], TALKS[2:]]), dialogue_rows([TALKS[1:2]])],
            "valid": [dialogue_rows([TALKS[:1]])],
        },
    }[kind]
    documents = {"stream": {"train": 3, "valid": 1}, "dialogue": {"train": 4, "valid": 1}}[kind]
    splits = {}
    for split, shards in content.items():
        infos, targets = [], 0
        for index, (rows, tokens) in enumerate(shards):
            file = f"pages-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
            writer = ShardWriter(folder / file, page_format)
            writer.write(rows)
            writer.close()
            infos.append(ShardInfo(file, writer.records, tokens, writer.n_bytes, writer.crc32c))
            targets += int((rows["weights"] > 0).sum()) if kind == "dialogue" else tokens - 1
        tokens = sum(info.tokens for info in infos)
        splits[split] = SplitInfo(documents[split], tokens, targets, 4 * targets, targets, tuple(infos))
    manifest = Manifest(
        kind=kind,
        row_length=LENGTH,
        vocab_size=257,
        tokenizer="bytes",
        tokenizer_hash=tokenizer.hash,
        eos_token_id=EOS,
        dialogue_format="eos" if kind == "dialogue" else None,
        loss_on="all" if kind == "dialogue" else None,
        splits=splits,
        sources=[
            {
                "source": "text:a.txt",
                "files": 1,
                "read": 1007,
                "kept": 4,
                "dropped: too short": 1003,
                "examples": {"too short": ["one\nword", "\x1b[31mred"]},
            }
        ],
        command="",
    )
    (folder / FILE).write_text(manifest.to_json())
    return manifest
