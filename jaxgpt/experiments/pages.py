"""From conversations in two splits to one folder of pages."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.tfds_files import write_tfds_files
from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import Conversation
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, SplitInfo, load_manifest
from jaxgpt.errors import UserError
from jaxgpt.experiments.config import Experiment
from jaxgpt.steps import make_tfrecords, run_step

TRAIN, VALID = "train", "valid"


def write_conversations(cfg: Experiment, output: Path, splits: Mapping[str, Sequence[Conversation]]) -> None:
    """Each split as dialogue JSON Lines, `output`/SPLIT.jsonl; what is there stays as it is.

    UserError, before anything is written, where a split has no text, or the folder is of other conversations or pages.
    """
    texts = {output / f"{split}.jsonl": _lines(cfg, split, own) for split, own in splits.items()}
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            before, now = len(path.read_bytes().splitlines()), len(text.splitlines())
            raise UserError(
                f"output is {cfg.output}, whose {path.name} has {before} conversations that are not the {now} that "
                f"{cfg.raw} gives with these options; give another output, or delete that folder"
            )
    for split in splits:
        _check_pages(cfg, output / f"pages_{split}")
    for path, text in texts.items():
        if not path.exists():
            write_text(path, text)


def _lines(cfg: Experiment, split: str, conversations: Sequence[Conversation]) -> str:
    if not any(conversation.turns for conversation in conversations):
        raise UserError(f"the split {split} of {cfg.raw} has no dialogue with text in it; give one that has some")
    turns = ([{"text": turn.text, "role": turn.role} for turn in talk.turns] for talk in conversations)
    return "".join(json.dumps(own, ensure_ascii=False) + "\n" for own in turns)


def _check_pages(cfg: Experiment, pages: Path) -> None:
    """UserError where pages that are finished were made with other options."""
    if not (pages / FILE).is_file():
        return
    found = load_manifest(pages)
    before = {"tokenizer": found.tokenizer, "format": found.dialogue_format, "row_length": found.row_length}
    for name, was in before.items():
        now = getattr(cfg, name)
        if was != now:
            raise UserError(
                f"{name} is {now}, but output is {cfg.output}, whose pages have {name} {was}; give another output"
            )


def make_pages(cfg: Experiment, output: Path) -> Path:
    """Pages with the splits train and valid, of the conversations in `output`/SPLIT.jsonl.

    make_tfrecords.py splits by chance; here the splits are given, so each is made by itself and the two are put
    together.
    """
    for split in (TRAIN, VALID):
        options = ["--tokenizer", cfg.tokenizer, "--format", cfg.format, "--row_length", str(cfg.row_length)]
        options += ["--shards", "1", "--valid_fraction", "0", "--output", str(output / f"pages_{split}")]
        run_step([make_tfrecords(), "--source", f"dialogue:{output / f'{split}.jsonl'}", *options])
    _join(output / "pages_train", output / "pages_valid", output / "pages")
    return output / "pages"


def _join(train: Path, valid: Path, pages: Path) -> None:
    """Pages of both folders' split train, the second one's as valid; the manifest comes last. The same is left."""
    first, second = load_manifest(train), load_manifest(valid)
    splits = {TRAIN: first.splits[TRAIN], VALID: _renamed(second.splits[TRAIN])}
    joined: Manifest = replace(
        first, splits=splits, sources=[*first.sources, *second.sources], command="jaxgpt experiment"
    )
    if (pages / FILE).is_file() and (pages / FILE).read_text(encoding="utf-8") == joined.to_json():
        return
    pages.mkdir(parents=True, exist_ok=True)
    (pages / FILE).unlink(missing_ok=True)
    shutil.copytree(train / TOKENIZER_FOLDER, pages / TOKENIZER_FOLDER, dirs_exist_ok=True)
    for folder, found, name in ((train, first, TRAIN), (valid, second, VALID)):
        for old, new in zip(found.splits[TRAIN].shards, splits[name].shards, strict=True):
            shutil.copyfile(folder / old.file, pages / new.file)
    write_tfds_files(pages, joined)
    write_text(pages / FILE, joined.to_json())


def _renamed(split: SplitInfo) -> SplitInfo:
    shards = tuple(replace(shard, file=shard.file.replace(f"-{TRAIN}.", f"-{VALID}.")) for shard in split.shards)
    return replace(split, shards=shards)
