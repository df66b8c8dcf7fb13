"""Builds pages, and reads them as what a person would have put in."""

import hashlib
import json

import numpy as np

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.manifest import load_manifest
from jaxgpt.data.tokenizer import load_tokenizer

EOS = 50256


def build(output, sources, **options):
    """One shard of train, so that nothing but packing changes the order."""
    return make(Options(sources, **{"shards": 1, "valid_fraction": 0, "row_length": 2039} | options), output, 1)


def turns_in(output):
    """Each conversation in the pages as (text, role, weight) of its turns; none may be cut."""
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    talks = []
    for row in rows_of(output, "train"):
        for segment in range(1, int(row["segments"].max()) + 1):
            here = row["segments"] == segment
            tokens, roles, weights = (row[name][here] for name in ("tokens", "roles", "weights"))
            assert weights[0] == 0
            if tokens[0] == EOS:  # a document's first token is predicted from this
                tokens, roles, weights = tokens[1:], roles[1:], weights[1:]
            ends = np.flatnonzero(tokens == EOS)
            assert ends[-1] == len(tokens) - 1
            talk = []
            for start, stop in zip([0, *ends[:-1] + 1], ends, strict=True):
                (role,) = set(roles[start : stop + 1].tolist())
                (weight,) = set(weights[max(start, 1) : stop + 1].tolist())
                talk.append((tokenizer.decode(tokens[start:stop]), role, weight))
            talks.append(talk)
    return talks


def documents_in(output):
    """The documents of the pages of a build with one shard, in order."""
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    stream = np.concatenate([row["tokens"] for row in rows_of(output, "train")])
    texts = [tokenizer.decode(ids) for ids in np.split(stream, np.flatnonzero(stream == EOS))]
    end = load_tokenizer("gpt2").decode([EOS])
    return [text.removeprefix(end) for text in texts if text not in ("", end)]


def alternating(texts, weight=1.0):
    return [(text, index % 2, weight) for index, text in enumerate(texts)]


def counts_of(manifest, number=0):
    """What was read, kept and dropped of a source, and examples of that."""
    source = manifest.sources[number]
    wanted = ("read", "kept", "dropped", "examples", "unicode", "turns with")
    return {name: count for name, count in source.items() if name.startswith(wanted)}


def rows_of(folder, split):
    manifest = load_manifest(folder)
    for shard in manifest.open_shards(folder, split):
        yield from shard.read(np.arange(len(shard)))


def hash_of(folder):
    """Of every name and byte in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + (path.read_bytes() if path.is_file() else b"/"))
    return digest.hexdigest()


def contents(folder):
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["command"]  # names the output
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, manifest
