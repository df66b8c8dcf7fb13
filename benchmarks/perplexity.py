"""Token perplexity beside Hugging Face's sliding-window loop: GPT-2 small, random weights, float32, the same windows.

    python benchmarks/perplexity.py --json

Both sides take turns on the same tokens; theirs is the loop of the guide "Perplexity of fixed-length models" with
`batch` windows at once. Ours is told the same number, of which it takes on a CPU as many as fit its cache: one.
`ratio`: our tokens/s over theirs, of medians.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.evaluate.scoring import JaxScorer
from jaxgpt.evaluate.windows import sliding
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model_config import ModelConfig


def _theirs(model: GPT2LMHeadModel, ids: np.ndarray, context: int, stride: int, batch: int) -> float:
    """Nats per token. All windows but the last are of one length, so several go through the model together."""
    tokens = torch.tensor(ids.astype(np.int64))
    windows, done = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        labels = tokens[begin:end].clone()
        labels[: done - end] = -100
        windows.append((tokens[begin:end], labels))
        done = end
        if end == len(ids):
            break
    nll, counted = 0.0, 0
    while windows:
        together = [window for window in windows[:batch] if len(window[0]) == len(windows[0][0])]
        windows = windows[len(together) :]
        inputs, labels = (torch.stack(column) for column in zip(*together, strict=True))
        with torch.no_grad():
            loss = float(model(inputs, labels=labels).loss)
        n = int((labels[:, 1:] != -100).sum())
        nll, counted = nll + loss * n, counted + n
    return nll / counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    cfg = ModelConfig()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    ours = JaxScorer(cfg, from_hf_tensors(tensors, cfg), args.batch)
    result: dict[str, float] = {}
    for stride in (1024, 512):
        ids = np.random.default_rng(0).integers(0, cfg.vocab_size, 1024 + stride * (args.windows - 1)).astype(np.int32)
        texts, _ = sliding(ids, 1024, stride)

        def mine(texts: list = texts) -> float:
            found = [scores.nll for _, scores in ours.score(texts)]
            return float(np.concatenate(found).mean(dtype=np.float64))

        def theirs(ids: np.ndarray = ids, stride: int = stride) -> float:
            return _theirs(model, ids, 1024, stride, args.batch)

        first, second = mine(), theirs()
        assert math.isclose(first, second, rel_tol=1e-4), f"{first} and {second} nats"
        pairs = [(_seconds(mine), _seconds(theirs)) for _ in range(args.rounds)]
        fast, slow = (statistics.median(side) for side in zip(*pairs, strict=True))
        result |= {
            f"ratio_stride_{stride}": slow / fast,
            f"ours_tokens_per_second_stride_{stride}": len(ids) / fast,
            f"theirs_tokens_per_second_stride_{stride}": len(ids) / slow,
        }
    for name, value in result.items():
        print(f"{name:40s} {value:10.2f}")
    if args.json:
        print(json.dumps(result))


def _seconds(run: Callable[[], float]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
