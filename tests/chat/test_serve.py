"""An exported folder in `transformers serve`: no code of ours runs, only the chat template and the stop tokens."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from conftest import TinyRun

PATIENCE = 180.0  # seconds; torch and transformers take their time to start on a busy machine
NEEDED = ("openai", "accelerate")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in NEEDED),
        reason='transformers serve needs pip install "transformers[serving]"',
    ),
]


@pytest.fixture(scope="module")
def server(tags_run: "TinyRun", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = ["serve", str(tags_run.hf), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("transformers"), *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        end = time.monotonic() + PATIENCE
        while not _healthy(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


MESSAGES = [
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "hi! how are you?"},
    {"role": "user", "content": "fine, I ate 3 apples"},
]


def _question(folder: Path, stream: bool) -> dict:
    return {"model": str(folder), "messages": MESSAGES, "temperature": 0, "max_tokens": 7, "stream": stream}


def _greedy(folder: Path) -> tuple[int, str]:
    """Length of the prompt written by hand, and the likeliest continuation of 7 tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = "A:hello there\n\n\nB:hi! how are you?\n\n\nA:fine, I ate 3 apples\n\n\nB:"
    ids = tokenizer(text, return_tensors="pt").input_ids
    length = ids.shape[1]
    stops = model.generation_config.eos_token_id
    with torch.inference_mode():
        while ids.shape[1] < length + 7 and int(ids[0, -1]) not in stops:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return length, tokenizer.decode(ids[0, length:], skip_special_tokens=True)


def test_it_answers_in_the_models_format(server: str, tags_run: "TinyRun") -> None:
    question = _question(tags_run.hf, stream=False)
    answer = httpx.post(f"{server}/v1/chat/completions", json=question, timeout=PATIENCE, trust_env=False).json()
    length, text = _greedy(tags_run.hf)
    assert answer["usage"]["prompt_tokens"] == length
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": text}


def test_it_streams(server: str, tags_run: "TinyRun") -> None:
    question = _question(tags_run.hf, stream=True)
    pieces = []
    with httpx.stream(
        "POST", f"{server}/v1/chat/completions", json=question, timeout=PATIENCE, trust_env=False
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                pieces += [choice["delta"].get("content") or "" for choice in choices]
    assert "".join(pieces) == _greedy(tags_run.hf)[1]
    assert len(pieces) > 2
