"""Training steps beside PyTorch's: GPT-2 small by transformers, the same weights, batches, precision and optimizer.

    python benchmarks/train.py --json                      4 rows of 256 tokens, float32, against PyTorch as it is
    python benchmarks/train.py --compile --dtype bfloat16  against torch.compile and autocast as well

Sides take turns, each in a process of its own, whose first two steps are not counted: in one process the threads of the
one would wait for work while the other computes. Theirs has PyTorch's fused attention, GELU and AdamW.
ratio_f32_eager (or ratio_bf16_eager, …_compile): our tokens/s over theirs, of medians. share_of_matmul: our arithmetic,
6 N + 12 L T D for each token, over what this machine's matrix products reach. losses: of each side's first steps, which
are to be the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.backend import HUGE_PAGES
from jaxgpt.config import Config, DataConfig, OptimizerConfig, TrainConfig
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan.measured import measure_cpu
from jaxgpt.train.flops import train_flops_per_token
from jaxgpt.train.optimizer import make_optimizer
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.step import STOPS, init_state

VOCAB = 50304  # a multiple of 128 on both sides
SETTLING = 2
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=1e-4, schedule="constant", warmup_steps=0)
Step = Callable[[np.ndarray], float]  # tokens (B, T + 1) -> loss


def _shape(args: argparse.Namespace) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCAB, n_positions=args.tokens, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, dtype=args.dtype
    )


def _ours(model: GPT2LMHeadModel, args: argparse.Namespace) -> Step:
    shape = _shape(args)
    cfg = Config(
        "",
        data=DataConfig(seq_len=args.tokens),
        model=shape,
        optimizer=OPTIMIZER,
        train=TrainConfig(batch_size=args.rows),
    )
    tensors = {name: param.detach().numpy() for name, param in model.named_parameters()}
    params = jax.tree.map(jax.numpy.array, from_hf_tensors(tensors, shape))
    parallel = Pmapped()
    state = init_state(cfg)._replace(params=params, opt_state=make_optimizer(OPTIMIZER, 0.0).init(params))
    state = parallel.replicate(state)
    step = parallel.train_step(cfg)

    def run(tokens_BT: np.ndarray) -> float:
        nonlocal state
        batch = {
            "input_ids": tokens_BT[:, :-1].astype(np.int32),
            "targets": tokens_BT[:, 1:].astype(np.int32),
            "weights": np.ones((args.rows, args.tokens), np.float32),
            "rows": np.arange(args.rows, dtype=np.int32),
            STOPS: np.zeros(parallel.n_own, np.int32),
        }
        state, metrics = step(state, parallel.split(batch))
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return run


def _theirs(model: GPT2LMHeadModel, args: argparse.Namespace, compiled: bool) -> Step:
    own = GPT2LMHeadModel(model.config)
    own.load_state_dict(model.state_dict())
    decayed = [param for name, param in own.named_parameters() if param.ndim == 2]
    others = [param for name, param in own.named_parameters() if param.ndim != 2]
    groups = [{"params": decayed, "weight_decay": OPTIMIZER.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=OPTIMIZER.learning_rate, betas=(OPTIMIZER.b1, OPTIMIZER.b2), eps=OPTIMIZER.eps, fused=True
    )

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
            logits = own(inputs).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    of_batch = torch.compile(loss_of) if compiled else loss_of

    def run(tokens_BT: np.ndarray) -> float:
        tokens = torch.from_numpy(tokens_BT)
        loss = of_batch(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), OPTIMIZER.max_grad_norm)
        optimizer.step()
        return float(loss.detach())

    return run


def _run_side(args: argparse.Namespace) -> None:
    """Prints the seconds of each counted step, and all losses."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=args.tokens,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config)
    step = _ours(model, args) if args.side == "jaxgpt" else _theirs(model, args, compiled=args.side == "compile")
    random = np.random.default_rng(0)
    seconds, losses = [], []
    for _ in range(SETTLING + args.steps):
        tokens_BT = random.integers(0, 50257, (args.rows, args.tokens + 1))
        start = time.perf_counter()
        losses.append(step(tokens_BT))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[SETTLING:], "losses": losses}))


def _in_process(side: str) -> dict[str, list[float]]:
    environment = {**os.environ, **(HUGE_PAGES if side == "jaxgpt" else {})}  # as `jaxgpt train` has it
    command = [sys.executable, *sys.argv, "--side", side]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of a round that are counted")
    parser.add_argument("--compile", action="store_true", help="against torch.compile as well")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        _run_side(args)
        return
    sides = ["jaxgpt", "eager", *(["compile"] if args.compile else [])]
    rounds, peaks = [], []
    for _ in range(args.rounds):
        rounds.append({side: _in_process(side) for side in sides})
        peaks.append(measure_cpu(args.dtype).flops_per_second)

    kind = "f32" if args.dtype == "float32" else "bf16"
    report: dict[str, Any] = {"rows": args.rows, "tokens": args.tokens, "dtype": args.dtype}
    seconds = {side: [taken for found in rounds for taken in found[side]["seconds"]] for side in sides}
    median = {side: statistics.median(found) for side, found in seconds.items()}
    for side in sides:
        report[f"{side}_s"], report[f"{side}_range_s"] = median[side], [min(seconds[side]), max(seconds[side])]
        report[f"{side}_losses"] = rounds[0][side]["losses"]
        if side != "jaxgpt":
            report[f"ratio_{kind}_{side}"] = median[side] / median["jaxgpt"]
    peak = max(peaks)  # of a machine that others slow down now and then
    report["matmul_gflops"] = peak / 1e9
    report["tokens_per_second"] = args.rows * args.tokens / median["jaxgpt"]
    flops = train_flops_per_token(_shape(args), args.tokens)
    report["share_of_matmul"] = report["tokens_per_second"] * flops / peak
    for key, value in report.items():
        print(f"{key:24s} {value}")
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
