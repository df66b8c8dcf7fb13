"""Raw data of the three experiments at their smallest, and options that train next to nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_woz import meal, write_raw

REPOSITORY = Path(__file__).parent.parent.parent
CONFIGS = REPOSITORY / "configs" / "experiments"
REAL = REPOSITORY.parent / "shared" / "data"
TINY = [
    "--train.init_from=null",
    "--train.train.max_steps=1",
    "--train.train.dropout=false",
    "--train.train.batch_size=8",
    "--train.optimizer.warmup_steps=1",
    "--train.optimizer.learning_rate=1e-3",  # with the next one: the same step for all, which is compiled once
    "--train.loss.label_smoothing=0",
    "--train.model.n_positions=64",
    "--train.model.n_embd=8",
    "--train.model.n_layer=1",
    "--train.model.n_head=2",
    "--train.eval.every=1",
    "--train.log.tensorboard=false",
    "--row_length=64",
    "--decoding.max_new_tokens=3",
    "--reply_batch=6",  # no test has fewer turns, so that this is compiled once, too
]
ARDM = "--dialogues_file=null"  # of camrest: the split in ARDM's form
ONTOLOGY = {"informable": {"food": ["thai", "chinese"], "area": ["north", "south"]}}
Run = Callable[..., dict[str, Any]]


def say(number: int, turns: int = 4) -> list[str]:
    return [f"{'AB'[turn % 2]}:turn {turn} of talk {number}" for turn in range(turns)]


def search(number: int) -> list[dict[str, Any]]:
    both = {"dial_id": number, "degree": number % 4}
    return [
        {**both, "user": f"thai food for {number}", "replaced_response": "<name_SLOT> is <food_SLOT> ."},
        {**both, "user": "where ?", "replaced_response": "at <address_SLOT> in the north ."},
    ]


ROWS = [
    {"name": "bangkok city", "address": "24 Green Street", "area": "north", "food": "thai", "phone": "01223 354382"},
    {"name": "bangkok", "address": "24 Green", "area": "north", "food": "chinese", "postcode": "C.B 2, 1 A.B"},
]


def published(number: int) -> dict[str, Any]:
    """The same in the form of CamRest676.json."""
    slu = [{"act": "inform", "slots": [["area", "north"]]}, {"act": "inform", "slots": [["food", "dontcare"]]}]
    asks = {"transcript": f" something north for {number}", "slu": slu}
    said = "Bangkok City and bangkok serve thai and Chinesey food in the north . 24 green streets"
    wants = {"transcript": "phone ?", "slu": [{"act": "request", "slots": [["slot", "phone"]]}]}
    told = "01223 354382 , cb21ab or 24 Green Street"
    return {"dial": [{"usr": asks, "sys": {"sent": said}}, {"usr": wants, "sys": {"sent": told}}]}


def write_camrest(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for split, begin, end in (("train", 0, 12), ("val", 12, 16), ("test", 16, 20)):
        dialogues = [search(number) for number in range(begin, end)]
        (folder / f"ardm_{split}_data.json").write_text(json.dumps(dialogues))
    (folder / "CamRestOTGY.json").write_text(json.dumps(ONTOLOGY))
    (folder / "CamRest676.json").write_text(json.dumps([published(number) for number in range(20)]))
    (folder / "CamRestDB.json").write_text(json.dumps(ROWS))
    return folder


def write_persuasion(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "split_train.json").write_text(json.dumps([say(number) for number in range(10)]))
    (folder / "split_valid.json").write_text(json.dumps([say(10), say(11, 2), say(12, 20)]))
    return folder


def write_woz(folder: Path) -> None:
    write_raw(folder, {f"MUL{number}.json": meal(number) for number in range(3)})
    (folder / "valListFile.txt").write_text("MUL0.json\n")
    (folder / "testListFile.txt").write_text("MUL1.json\n")
