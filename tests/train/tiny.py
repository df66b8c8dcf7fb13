"""Small models, batches, pages and runs for the tests of training."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

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
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, SplitInfo
from jaxgpt.data.records import PageFormat, ShardWriter
from jaxgpt.data.tokenizer import Tokenizer

MODEL = ModelConfig(vocab_size=131, n_positions=23, n_embd=20, n_layer=1, n_head=5, n_inner=37, use_token_types=True)
T = 19
VOCABULARY = 307
_REPEATED = ("step", "epoch", "tokens", "tokens_total", "loss", "kl", "grad_norm", "learning_rate")
_REPEATED += ("valid_loss", "valid_perplexity")


def step_config(batch_size: int = 16, microbatches: int = 1, max_steps: int = 50, **model: Any) -> Config:
    """For the step alone: no pages, no folder."""
    return Config(
        output="",
        seed=3,
        model=replace(MODEL, **model),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=TrainConfig(max_steps, batch_size, microbatches),
    )


def host_batch(seed: int, rows: int = 16) -> dict[str, np.ndarray]:
    """Dialogue as the loader gives it; weights are real and differ much from row to row."""
    random = np.random.default_rng(seed)
    segments = np.sort(random.integers(1, 4, (rows, T), dtype=np.int32), axis=1)
    starts = np.ones((rows, T), bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    at = np.arange(T)
    weights = (
        random.uniform(0, 2, (rows, T)) * (random.uniform(size=(rows, T)) < 0.7) * np.linspace(0, 3, rows)[:, None]
    )
    return {
        "input_ids": random.integers(0, 131, (rows, T), dtype=np.int32),
        "targets": random.integers(0, 131, (rows, T), dtype=np.int32),
        "weights": weights.astype(np.float32),
        "segments": segments,
        "positions": (at - np.maximum.accumulate(np.where(starts, at, 0), axis=1)).astype(np.int32),
        "roles": random.integers(0, 2, (rows, T), dtype=np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def write_pages(
    folder: Path, seed: int = 0, train_rows: int = 61, row_length: int = 32, tokenizer: Tokenizer | None = None
) -> Path:
    """Stream pages of random ids. tokenizer: None is one of few ids, which makes small models fast."""
    from small_tokenizer import trained  # late: processes that need no pages do not find it

    tokenizer = tokenizer or trained([Path(__file__).read_text()], vocab_size=VOCABULARY)
    assert tokenizer.vocab_size >= VOCABULARY
    tokenizer.save(folder / TOKENIZER_FOLDER)
    page_format = PageFormat("stream", row_length, tokenizer.vocab_size)
    random = np.random.default_rng(seed)
    splits = {}
    for split, rows in (("train", train_rows), ("valid", 11)):
        # Few different ids, so that a small model has something to learn.
        tokens = random.integers(0, 40, (rows, row_length))
        file = f"pages-{split}.tfrecord-00000-of-00001"
        writer = ShardWriter(folder / file, page_format)
        writer.write({"tokens": tokens})
        writer.close()
        shard = ShardInfo(file, rows, tokens.size, writer.n_bytes, writer.crc32c)
        splits[split] = SplitInfo(rows, tokens.size, tokens.size - 1, 3 * tokens.size, tokens.size // 2, (shard,))
    manifest = Manifest(
        kind="stream",
        row_length=row_length,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.name,
        tokenizer_hash=tokenizer.hash,
        eos_token_id=tokenizer.eos_token_id,
        dialogue_format=None,
        loss_on=None,
        splits=splits,
        sources=[],
        command="tests",
    )
    (folder / FILE).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def run_config(pages: Path, output: Path, max_steps: int = 12, **changes: Any) -> Config:
    """A run of seconds: evaluated and saved often, dropout on."""
    cfg = Config(
        output=str(output),
        seed=7,
        data=DataConfig(path=str(pages)),
        model=ModelConfig(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=3),
        train=TrainConfig(max_steps=max_steps, batch_size=8),
        eval=EvalConfig(every=5, batches=1, sample_tokens=0),
        checkpoint=CheckpointConfig(every=3, keep_last=3),
        log=LogConfig(every=1, tensorboard=False),
    )
    return replace(cfg, **changes)


def metrics_of(run: Path | str) -> list[dict[str, Any]]:
    """What repeats exactly of the lines of metrics.jsonl: times and memory do not."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name in _REPEATED} for line in lines]


def command(cfg: Config, folder: Path) -> list[str]:
    """`jaxgpt train` of `cfg` as a process of its own."""
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(asdict(cfg)))
    return [sys.executable, "-m", "jaxgpt", "train", "--config", str(path)]


def environment(devices: int = 1) -> dict[str, str]:
    root = Path(__file__).parents[2]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": flags}


def run_command(cfg: Config, folder: Path, devices: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(cfg, folder), env=environment(devices), cwd=folder, capture_output=True, text=True, timeout=300
    )


def run_python(code: str, folder: Path, devices: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(devices),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
