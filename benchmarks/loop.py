"""What training takes beside its steps: the loop, a checkpoint, a start, memory. GPT-2 small, 4 rows of 256, on a CPU.

    python benchmarks/loop.py --json

`jaxgpt train` and the compiled step alone take turns, each in a process of its own; `overhead` is what a step of the
loop takes longer, of medians. `stall_s`: time per checkpoint in which no step is started. `start_s`: from the command
to the end of the first step of a run that goes on, with everything compiled before. `peak_gb`: of the process, of which
`device_gb` is what the step needs on its device: a CPU, so that is the same memory.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.backend import HUGE_PAGES

STEPS = 8  # of a round, of which the first two are not counted
ROWS, LENGTH = 4, 256


def _pages(folder: Path) -> Path:
    from data_prep.make import make
    from data_prep.options import Options

    letters = np.random.default_rng(0).choice(list("abcdefgh "), (200, 1000))
    documents = [json.dumps({"text": "".join(row)}) for row in letters]
    (folder / "text.jsonl").write_text("\n".join(documents))
    options = Options(source=[f"jsonl:{folder / 'text.jsonl'}"], row_length=LENGTH, shards=1, valid_fraction=0.1)
    make(options, folder / "pages", processes=1)
    return folder / "pages"


def _command(folder: Path, max_steps: int, save_every: int) -> list[str]:
    options = {
        "output": folder / "run",
        "data.path": folder / "pages",
        "data.seq_len": LENGTH,
        "model.n_positions": LENGTH,
        "train.max_steps": max_steps,
        "train.batch_size": ROWS,
        "optimizer.warmup_steps": 1,
        "optimizer.schedule": "constant",
        "eval.every": 1_000_000,
        "eval.batches": 1,
        "eval.sample_tokens": 0,
        "checkpoint.every": save_every,
        "checkpoint.keep_last": 1,
        "log.every": 1,
    }
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "jaxgpt", "train", *given]


def _train(folder: Path, max_steps: int, save_every: int) -> dict[str, Any]:
    """Trains on to max_steps; the lines of its log, seconds until the first of them, and its memory at its peak."""
    log = folder / "run" / "metrics.jsonl"
    before = len(_lines(log))
    began, first, peak_kb = time.perf_counter(), None, 0
    with subprocess.Popen(_command(folder, max_steps, save_every), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if first is None and len(_lines(log)) > before:
                first = time.perf_counter() - began
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+)", status):
                peak_kb = int(found[1])
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {"lines": _lines(log)[before:], "first_step_s": first, "peak_gb": peak_kb * 1024 / 1e9}


def _lines(log: Path) -> list[dict[str, float]]:
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text().splitlines(True) if line.endswith("\n") and '"loss"' in line]


def _bare(folder: Path) -> dict[str, Any]:
    """Seconds of each step alone, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--bare", str(folder)],
        env={**os.environ, **HUGE_PAGES},
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _time_bare(folder: Path) -> None:
    import jax
    import yaml

    from jaxgpt.config import Config, DataConfig, OptimizerConfig, TrainConfig
    from jaxgpt.data.loader import Pages, training_batches
    from jaxgpt.model_config import ModelConfig
    from jaxgpt.plan.compiling import Compiled, compile_step, trace_step
    from jaxgpt.train.pmapped import Pmapped
    from jaxgpt.train.step import STOPS

    found = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    model, optimizer = ModelConfig(**found["model"]), OptimizerConfig(**found["optimizer"])
    train = TrainConfig(**found["train"])
    data = DataConfig(seq_len=LENGTH)
    cfg = Config("", found["seed"], data=data, model=model, optimizer=optimizer, train=train)
    parallel = Pmapped()
    compiled = compile_step(trace_step(cfg, parallel.devices, dialogue=False))
    assert isinstance(compiled, Compiled)
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    batches = training_batches(Pages(folder / "pages", "train", LENGTH), ROWS, cfg.seed, 0)
    times = []
    for _ in range(STEPS):
        batch, _ = next(batches)
        placed = parallel.split({**batch, STOPS: np.zeros(parallel.n_own, np.int32)})
        jax.block_until_ready(placed)
        began = time.perf_counter()
        state, metrics = step(state, placed, None)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": times[2:], "device_gb": sum(compiled.memory.values()) / 1e9}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="2 or more: the first one compiles")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds} is too few: a start with everything compiled needs 2")
    if args.bare:
        _time_bare(args.bare)
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # nothing is compiled yet
        _pages(folder)
        rounds, alone, done = [], [], 0
        for _ in range(args.rounds):
            done += STEPS
            rounds.append(_train(folder, done, save_every=1_000_000))
            alone.append(_bare(folder))
        saving = _train(folder, done + 3 * STEPS, save_every=STEPS)
    in_loop = [line["step_seconds"] for one in rounds for line in one["lines"][2:]]
    bare = [seconds for one in alone for seconds in one["seconds"]]
    stalls = [line["checkpoint_stall_seconds"] for line in saving["lines"] if "checkpoint_stall_seconds" in line]
    result = {
        "overhead": statistics.median(in_loop) / statistics.median(bare) - 1,
        "loop_step_s": statistics.median(in_loop),
        "loop_range_s": [min(in_loop), max(in_loop)],
        "bare_step_s": statistics.median(bare),
        "bare_range_s": [min(bare), max(bare)],
        "data_wait_s": statistics.median(line["data_wait_seconds"] for one in rounds for line in one["lines"][2:]),
        "stall_s": statistics.median(stalls),
        "stall_in_steps": statistics.median(stalls) / statistics.median(in_loop),
        "first_start_s": rounds[0]["first_step_s"],
        "start_s": statistics.median(one["first_step_s"] for one in rounds[1:]),
        "device_gb": alone[0]["device_gb"],
        "between_saves_gb": statistics.median(line["host_memory_gb"] for one in rounds for line in one["lines"][2:]),
        "peak_gb": saving["peak_gb"],
    }
    for key, value in result.items():
        print(f"{key:24s} {value}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
