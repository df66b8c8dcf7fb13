"""`jaxgpt demo`: the commands that a user would type, one after the other, on conversations from a PyPI package."""

import json
import time
from pathlib import Path
from typing import Any

from jaxgpt import chitchat
from jaxgpt.chitchat import write_lines
from jaxgpt.data.atomic import write_text
from jaxgpt.evaluate.unigram import unigram_perplexity
from jaxgpt.steps import make_tfrecords, run_step

PROMPT = "Hello, how are you?"
_ROW_LENGTH = 256  # tokens; of the demo's pages and the n_positions of configs/demo.yaml


def run_demo(output: Path, config: Path, train_options: list[str], conversations: int) -> dict[str, Any]:
    """Leaves `output`/report.json and returns it; a second call reuses what is there."""
    started = time.monotonic()
    text, pages, run, model = (output / name for name in ("conversations.jsonl", "pages", "run", "model"))
    report_path = output / "report.json"
    output.mkdir(parents=True, exist_ok=True)
    if not text.is_file():
        write_lines(text, chitchat.conversations()[: conversations or None])
    options = ["--format", "tags", "--row_length", str(_ROW_LENGTH), "--valid_fraction", "0.02"]
    run_step([make_tfrecords(), "--source", f"dialogue:{text}", *options, "--output", str(pages)])
    train = ["-m", "jaxgpt", "train", "--config", str(config), "--output", str(run), "--data.path", str(pages)]
    trained = run_step([*train, *train_options])
    measured = run_step(["-m", "jaxgpt", "perplexity", "--model", str(run), "--data", str(pages)])
    exported = run_step(["-m", "jaxgpt", "export", str(run), "--output", str(model)])
    said = run_step(
        ["-m", "jaxgpt", "chat", "--model", str(model), "--prompt", PROMPT, "--temperature", "0.7", "--seed", "0"]
    )

    speed = trained["tokens_per_second"]
    if speed is None and report_path.is_file():  # the training was finished before; its speed was measured then
        speed = json.loads(report_path.read_text(encoding="utf-8"))["train_tokens_per_second"]
    report = {
        "valid_perplexity": measured["token_perplexity"],
        "unigram_perplexity": unigram_perplexity(pages, "train", "valid"),
        "train_tokens_per_second": speed,
        "parity_max_abs_diff": exported["max_abs_diff"],
        "export_dir": str(model),
        "reply": said["reply"],
        "seconds": time.monotonic() - started,
    }
    write_text(report_path, json.dumps(report, indent=1) + "\n")
    _conclude(report, report_path)
    return report


def _conclude(report: dict[str, Any], path: Path) -> None:
    speed = report["train_tokens_per_second"]
    print(
        f"\nDone in {report['seconds'] / 60:.1f} minutes; the numbers are in {path}:\n"
        f"  perplexity on conversations it never saw: {report['valid_perplexity']:.1f} "
        f"(guessing by frequency: {report['unigram_perplexity']:.1f})\n"
        f"  training speed: {'measured in an earlier call' if speed is None else f'{speed:,.0f} tokens/s'}\n"
        f"  JAX and PyTorch differ by at most {report['parity_max_abs_diff']:.1e} in a logit\n"
        f"  You: {PROMPT}\n"
        f"  Bot: {report['reply']}\n\n"
        "Talk with it yourself:\n"
        f"  .venv/bin/jaxgpt chat --model {report['export_dir']} --temperature 0.7\n"
        "and then bring your own conversations, one JSON list of turns per line:\n"
        "  .venv/bin/python data_prep/make_tfrecords.py --source dialogue:mine.jsonl --format tags --output data/mine\n"
        "  .venv/bin/jaxgpt train --config configs/dialogue_small.yaml --data.path data/mine --output runs/mine"
    )
