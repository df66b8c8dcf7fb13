"""A folder of pages, a run of two steps on them and its export, made once per session for the tests that need any."""

import json
from pathlib import Path

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.chat.export import export
from jaxgpt.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from jaxgpt.train.loop import train
from jaxgpt.train.models import load_model

CONVERSATIONS = [
    ["hello there", "hi! how are you?", f"fine, I ate {n} apples\n\nand more", "ha, that is a lot — naïve 🤖"][
        : 2 + n % 3
    ]
    for n in range(40)
]
ROW_LENGTH = 47  # tokens; a prime, and some conversations are longer


def make_pages(folder: Path, dialogue_format: str) -> Path:
    source = folder / "talk.jsonl"
    source.write_text("".join(json.dumps(turns) + "\n" for turns in CONVERSATIONS), encoding="utf-8")
    options = Options(
        source=[f"dialogue:{source}"],
        format=dialogue_format,  # type: ignore[arg-type]
        row_length=ROW_LENGTH,
        shards=3,
        valid_fraction=0.3,
    )
    make(options, folder / "pages", processes=1)
    return folder / "pages"


def make_run(folder: Path, pages: Path, vocab_size: int, token_types: bool = False) -> Path:
    cfg = Config(
        output=str(folder / "run"),
        data=DataConfig(path=str(pages)),
        model=ModelConfig(
            vocab_size=vocab_size,
            n_positions=61,
            n_embd=24,
            n_layer=2,
            n_head=3,
            use_token_types=token_types,
            initializer_range=0.3,  # far from uniform, so that a wrong input changes the perplexity
        ),
        optimizer=OptimizerConfig(warmup_steps=1),
        train=TrainConfig(max_steps=2, batch_size=8),
        eval=EvalConfig(every=1, batches=1, sample_tokens=0),
        checkpoint=CheckpointConfig(every=1),
        log=LogConfig(tensorboard=False),
    )
    train(cfg)
    return folder / "run"


def make_export(folder: Path, run: Path) -> Path:
    export(load_model(run), folder / "hf")
    return folder / "hf"
