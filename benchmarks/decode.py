"""Decoding beside transformers' `generate`: GPT-2 small with random weights, greedy, float32, the same tokens.

    python benchmarks/decode.py --json

Both sides take turns within one run. `ratio_batch_N`: our tokens/s over theirs, of medians. The first token: the time
from a prompt of 512 tokens to it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from jaxgpt.decode.loop import drawn_ids, generate, set_up
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.decode.rules import make_rules
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model_config import ModelConfig

PROMPT = 16


def _ours(cfg: ModelConfig, params: dict, prompts: list[list[int]], new: int) -> Callable[[], list[list[int]]]:
    modes, rules = make_rules(cfg.vocab_size, temperature=0)

    def run() -> list[list[int]]:
        state = set_up(cfg, prompts, None, new, seed=0)
        return drawn_ids(generate(cfg, modes, params, rules, state, new, filler=0), rules)

    return run


def _theirs(model: GPT2LMHeadModel, prompts: list[list[int]], new: int) -> Callable[[], list[list[int]]]:
    ids = torch.tensor(prompts)

    def run() -> list[list[int]]:
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new)
        return out[:, ids.shape[1] :].tolist()

    return run


def _seconds(run: Callable[[], list[list[int]]]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _compare(ours: Callable[[], list[list[int]]], theirs: Callable[[], list[list[int]]], rounds: int) -> dict:
    """Medians and ranges of seconds, in turns; both have run once before, so nothing is compiled."""
    same = ours() == theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    mine, others = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        "ours_s": statistics.median(mine),
        "theirs_s": statistics.median(others),
        "ours_range_s": [min(mine), max(mine)],
        "theirs_range_s": [min(others), max(others)],
        "ratio": statistics.median(others) / statistics.median(mine),
        "same_tokens": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    args = parser.parse_args()

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    theirs.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)  # no token ends it early
    shape = ModelConfig()
    tensors = {name: param.detach().numpy() for name, param in theirs.named_parameters()}
    cfg, params = for_decoding(shape, jax.tree.map(jnp.asarray, from_hf_tensors(tensors, shape)))
    rng = np.random.default_rng(0)

    report: dict = {"new_tokens": args.new_tokens, "rounds": args.rounds}
    print(f"{'':24s}{'jaxgpt':>18s}{'transformers':>18s}{'ratio':>8s}  same tokens")
    for name, rows, prompt, new in (
        ("batch_1", 1, PROMPT, args.new_tokens),
        ("batch_8", 8, PROMPT, args.new_tokens),
        ("first_token_512", 1, 512, 1),
    ):
        prompts = rng.integers(0, shape.vocab_size, (rows, prompt)).tolist()
        found = _compare(_ours(cfg, params, prompts, new), _theirs(theirs, prompts, new), args.rounds)
        if new > 1:
            shown = [f"{rows * new / found[side]:.1f} tokens/s" for side in ("ours_s", "theirs_s")]
        else:
            shown = [f"{found[side] * 1e3:.0f} ms" for side in ("ours_s", "theirs_s")]
        print(f"{name:24s}{shown[0]:>18s}{shown[1]:>18s}{found['ratio']:8.2f}  {found['same_tokens']}", flush=True)
        report[name] = found
        report[f"ratio_{name}"] = found["ratio"]
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
