"""What an experiment can be told. Imports no framework, so that `--help` is fast."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jaxgpt.chat.decoding import Decoding
from jaxgpt.checks import require
from jaxgpt.data.dialogue import FormatName
from jaxgpt.errors import UserError

_SET_FOR_YOU = {  # options of jaxgpt train
    "output": "give output instead",
    "data.path": "the pages are those of raw, and other options of data are given one by one",
    "config": "write its options under train",
}


def check_train_options(*names: str) -> None:
    """UserError where one is set by the experiment; jaxgpt train knows options by their beginnings, too."""
    for name in names:
        for own, instead in _SET_FOR_YOU.items():
            require(not own.startswith(name), f"train.{name} is set by the experiment; leave it out: {instead}")


@dataclass(frozen=True)
class Experiment:
    """What all of them have.

    Args:
        experiment: which one: persuasion, camrest or multiwoz
        output: folder for conversations, pages, the run and the table
        raw: folder with the raw data; the names of files below are within it
        tokenizer: as make_tfrecords.py takes it
        format: how a conversation is written, as make_tfrecords.py takes it
        row_length: tokens of a row of the pages
        decoding: how the system's turns are generated; not for perplexities
        reply_batch: turns that are generated at once
        train: any option of jaxgpt train, as in its configurations; output and data.path are set for you
    """

    experiment: str
    output: str
    raw: str
    tokenizer: str = "gpt2"
    format: FormatName = "tags"
    row_length: int = 1024
    decoding: Decoding = field(default_factory=lambda: Decoding(seed=0))
    reply_batch: int = 16
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.row_length >= 8, f"row_length is {self.row_length}; it must be 8 or more")
        require(self.reply_batch > 0, f"reply_batch is {self.reply_batch}; it must be above 0")
        data = self.train.get("data", {})
        require(
            isinstance(data, dict),
            f"train.data is {data!r}; it must hold options such as seq_len, or be left out",
        )
        check_train_options(*(name for name in self.train if name != "data"), *(f"data.{name}" for name in data))

    def file(self, name: str) -> Path:
        """A raw file; UserError where it is missing."""
        path = Path(self.raw) / name
        require(path.is_file(), f"{path} is missing; get the data, and name its folder as --raw")
        return path


@dataclass(frozen=True)
class PersuasionExperiment(Experiment):
    """Perplexity of a model that was trained on PersuasionForGood.

    Args:
        train_file: dialogues to train on, in ARDM's form
        valid_file: dialogues to measure on, in the same form
        dialogues_file: full_dialog.csv instead of the two: a split by chance
        valid_fraction: of the split by chance: share of the dialogues to measure on
        seed: of the split by chance
    """

    train_file: str = "split_train.json"
    valid_file: str = "split_valid.json"
    dialogues_file: str | None = None
    valid_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.valid_fraction < 1, f"valid_fraction is {self.valid_fraction}; it must lie between 0 and 1")


@dataclass(frozen=True)
class CamRestExperiment(Experiment):
    """BLEU and Success-F1 of a model that was trained on CamRest676.

    Args:
        dialogues_file: CamRest676.json, which is split in its order into 408, 136 and 132 dialogues; null means that
            the next three files are read instead
        database_file: CamRestDB.json, for placeholders in the dialogues of dialogues_file
        train_file: dialogues to train on, in ARDM's form
        valid_file: dialogues by which the checkpoint is chosen, in ARDM's form
        test_file: dialogues to measure on, in ARDM's form
        ontology_file: CamRestOTGY.json
        train_dialogues: how many of the first dialogues to train on are used; 0 means all
    """

    dialogues_file: str | None = "CamRest676.json"
    database_file: str = "CamRestDB.json"
    train_file: str = "ardm_train_data.json"
    valid_file: str = "ardm_val_data.json"
    test_file: str = "ardm_test_data.json"
    ontology_file: str = "CamRestOTGY.json"
    train_dialogues: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train_dialogues >= 0, f"train_dialogues is {self.train_dialogues}; it must be 0 (all) or more")


@dataclass(frozen=True)
class MultiWozExperiment(Experiment):
    """Match, Success and BLEU of a model that was trained on MultiWOZ 2.1.

    Args:
        train_file: dialogues to train on: data.json, or ConvLab-2's zip
        valid_file: dialogues by which the checkpoint is chosen; may be the same file
        test_file: dialogues to measure on; may be the same file
        train_list: names of the dialogues of train_file to use; null means those that the other lists do not have
        valid_list: names of the dialogues of valid_file to use; null means all
        test_list: names of the dialogues of test_file to use; null means all
        databases: folder within raw that holds restaurant_db.json and the others
        most_rows: the model is told how many rows fit, up to this number
    """

    train_file: str = "data.json"
    valid_file: str = "data.json"
    test_file: str = "data.json"
    train_list: str | None = None
    valid_list: str | None = "valListFile.txt"
    test_list: str | None = "testListFile.txt"
    databases: str = "."
    most_rows: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.most_rows > 0, f"most_rows is {self.most_rows}; it must be above 0")


EXPERIMENTS: dict[str, type[Experiment]] = {
    "persuasion": PersuasionExperiment,
    "camrest": CamRestExperiment,
    "multiwoz": MultiWozExperiment,
}


def kind_of(config: Path) -> type[Experiment]:
    """Which experiment a configuration is of; UserError where it does not say, or is no YAML."""
    require(config.is_file(), f"{config} is missing; the experiments' configurations are in configs/experiments")
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config} is not YAML ({' '.join(str(error).split())})") from None
    name = content.get("experiment") if isinstance(content, dict) else None
    if name not in EXPERIMENTS:
        raise UserError(f"{config}: experiment is {name!r}; it must be one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
