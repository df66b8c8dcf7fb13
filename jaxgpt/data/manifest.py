"""manifest.json: what a folder of pages holds, written last and read first.

A folder without one is unfinished. Training and evaluation refuse a manifest that does not fit the model.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.data.dialogue import FORMATS, DialogueFormat, FormatName, format_of
from jaxgpt.data.records import PageFormat, Shard
from jaxgpt.errors import UserError

FORMAT_VERSION = 1
FILE = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class ShardInfo:
    """One file. tokens: without padding; bytes: of the file; crc32c: of the file, hex."""

    file: str
    records: int
    tokens: int
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class SplitInfo:
    """One split.

    documents: documents or conversations; tokens: in the shards, without padding, with repeated context;
    targets: tokens with a weight above 0 that something predicts; text_bytes, words: of the text behind the targets,
    UTF-8 and between white space.
    """

    documents: int
    tokens: int
    targets: int
    text_bytes: int
    words: int
    shards: tuple[ShardInfo, ...]

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """Everything about a folder of pages. `sources`: per source what was read, kept, dropped and why."""

    kind: str
    row_length: int
    vocab_size: int
    tokenizer: str
    tokenizer_hash: str
    eos_token_id: int
    dialogue_format: FormatName | None
    loss_on: str | None
    splits: dict[str, SplitInfo]
    sources: list[dict[str, Any]]
    command: str
    options: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def page_format(self) -> PageFormat:
        return PageFormat(self.kind, self.row_length, self.vocab_size)  # type: ignore[arg-type]  # checked by load

    @property
    def format(self) -> DialogueFormat | None:
        return format_of(self.dialogue_format)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def split(self, name: str, folder: Path) -> SplitInfo:
        if name not in self.splits:
            raise UserError(f"{folder / FILE} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def open_shards(self, folder: Path, split: str) -> list[Shard]:
        """The split's files, each checked against its size in the manifest."""
        return [
            Shard(folder / shard.file, self.page_format, shard.records) for shard in self.split(split, folder).shards
        ]


def manifest_hash(folder: Path) -> str | None:
    """SHA-256 of the folder's manifest, by which a run knows its pages again; None where there is no manifest."""
    path = folder / FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def load_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`; UserError where there is none or it is not one of ours."""
    path = folder / FILE
    if not path.is_file():
        unfinished = folder.is_dir() and any(folder.glob("*.tfrecord*"))
        why = (
            "the build did not finish: run the same make_tfrecords.py command again"
            if unfinished
            else ("build pages there first: python data_prep/make_tfrecords.py --source FILE --output " + str(folder))
        )
        raise UserError(f"{path} is missing; {why}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: format_version is {version}, this jaxgpt reads {FORMAT_VERSION}; build the pages again"
            )
        content["splits"] = {
            name: SplitInfo(**{**split, "shards": tuple(ShardInfo(**shard) for shard in split["shards"])})
            for name, split in content["splits"].items()
        }
        manifest = Manifest(**content)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a manifest of pages ({error!r}); build the pages again") from None
    if manifest.kind not in ("stream", "dialogue") or manifest.dialogue_format not in (None, *FORMATS):
        raise UserError(
            f"{path}: kind {manifest.kind!r} with dialogue_format {manifest.dialogue_format!r} is unknown; "
            "build the pages again with this jaxgpt"
        )
    return manifest


def check_fits(manifest: Manifest, folder: Path, vocab_size: int) -> None:
    """UserError where a model of `vocab_size` ids can't be trained or evaluated on these pages."""
    if manifest.vocab_size != vocab_size:
        raise UserError(
            f"{folder / FILE}: vocabulary of {manifest.vocab_size} ids ({manifest.tokenizer}) does not fit "
            f"model.vocab_size {vocab_size}; set model.vocab_size to {manifest.vocab_size} or build the pages with the "
            "model's tokenizer"
        )


def check_same_text_format(manifest: Manifest, folder: Path, tokenizer_hash: str, dialogue_format: str | None) -> None:
    """UserError where pages were written with another tokenizer or dialogue format than the model was trained on."""
    if manifest.tokenizer_hash != tokenizer_hash:
        raise UserError(
            f"{folder / FILE}: tokenizer {manifest.tokenizer} (hash {manifest.tokenizer_hash[:12]}) is not the model's "
            f"(hash {tokenizer_hash[:12]}); build the pages with the model's tokenizer folder as --tokenizer"
        )
    if manifest.dialogue_format != dialogue_format:
        raise UserError(
            f"{folder / FILE}: dialogue_format {manifest.dialogue_format} is not the model's {dialogue_format}; "
            f"build the pages with --format {dialogue_format}"
        )
