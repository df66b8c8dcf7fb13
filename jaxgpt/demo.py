"""`jaxgpt demo`: the commands that a user would type, one after the other, on conversations from a PyPI package."""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError
from jaxgpt.evaluate.unigram import unigram_perplexity

PROMPT = "Hello, how are you?"
_PACKAGE = "chitchat_dataset"
_REPOSITORY = Path(__file__).parent.parent
_ROW_LENGTH = 256  # tokens; of the demo's pages and the n_positions of configs/demo.yaml


def write_conversations(path: Path, limit: int) -> None:
    """The package's conversations as dialogue JSON Lines; what a speaker wrote in a row becomes one turn.

    Source: BYU Perception, Control and Cognition Lab, chitchat-dataset (MIT).
    """
    spec = importlib.util.find_spec(_PACKAGE)  # found, not imported: only its data file is wanted
    if spec is None or spec.origin is None:
        raise UserError("the demo talks from the package chitchat-dataset; pip install chitchat-dataset==0.9.0")
    data = json.loads((Path(spec.origin).parent / "dataset.json").read_text(encoding="utf-8"))
    conversations = list(data.values())[: limit or None]
    lines = [
        json.dumps(
            [" ".join(message["text"] for message in turn) for turn in conversation["messages"]], ensure_ascii=False
        )
        for conversation in conversations
    ]
    write_text(path, "\n".join(lines) + "\n")


def _run(command: list[str]) -> dict[str, Any]:
    """Runs a command of ours under the present interpreter and shows it; its last line is JSON."""
    shown = ["jaxgpt", *command[2:]] if command[:2] == ["-m", "jaxgpt"] else ["python", *command]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    process = subprocess.Popen([sys.executable, *command, "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if last:
            print(last, end="", flush=True)
        last = line
    if process.wait():
        if last:
            print(last, end="", flush=True)
        raise SystemExit(process.returncode)
    return json.loads(last)


def run_demo(output: Path, config: Path, train_options: list[str], conversations: int) -> dict[str, Any]:
    """Leaves `output`/report.json and returns it; a second call reuses what is there."""
    started = time.monotonic()
    text, pages, run, model = (output / name for name in ("conversations.jsonl", "pages", "run", "model"))
    report_path = output / "report.json"
    output.mkdir(parents=True, exist_ok=True)
    if not text.is_file():
        write_conversations(text, conversations)
    make = _REPOSITORY / "data_prep" / "make_tfrecords.py"
    options = ["--format", "tags", "--row_length", str(_ROW_LENGTH), "--valid_fraction", "0.02"]
    _run([_relative(make), "--source", f"dialogue:{text}", *options, "--output", str(pages)])
    train = ["-m", "jaxgpt", "train", "--config", str(config), "--output", str(run), "--data.path", str(pages)]
    trained = _run([*train, *train_options])
    measured = _run(["-m", "jaxgpt", "perplexity", "--model", str(run), "--data", str(pages)])
    exported = _run(["-m", "jaxgpt", "export", str(run), "--output", str(model)])
    said = _run(
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


def _relative(path: Path) -> str:
    """A path as a user standing here would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


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
