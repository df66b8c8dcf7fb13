"""Pages and a configuration with which a training takes little more than its start."""

import json
from pathlib import Path
from typing import Any

import yaml
from small_tokenizer import trained
from tiny_run import CONVERSATIONS

from data_prep.make import make
from data_prep.options import Options

# Programs that compile in half the time.
XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def write_run(folder: Path, steps: int) -> list[str]:
    """Makes both in the folder; returns the options of `jaxgpt train`, up to the folder of the run."""
    (folder / "talk.jsonl").write_text("".join(json.dumps(turns) + "\n" for turns in CONVERSATIONS))
    trained([turn for turns in CONVERSATIONS for turn in turns]).save(folder / "tokenizer")
    tokenizer, source = str(folder / "tokenizer"), [f"dialogue:{folder / 'talk.jsonl'}"]
    make(Options(source, tokenizer=tokenizer, row_length=32, valid_fraction=0.3), folder / "pages", processes=1)
    config: dict[str, Any] = {
        "output": "",
        "data": {"path": str(folder / "pages")},
        "model": {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 307},
        "optimizer": {"warmup_steps": 1},
        "train": {"max_steps": steps, "batch_size": 8},
        "eval": {"every": steps, "batches": 1, "sample_tokens": 0},
        "checkpoint": {"every": steps},
        "log": {"every": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return ["--config", str(folder / "config.yaml"), "--output"]
