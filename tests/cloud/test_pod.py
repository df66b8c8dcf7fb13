"""A pod in miniature: four processes of this machine as hosts, a bucket on loopback, and losses that a run survives."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from bucket_server import BUCKET, bucket_server
from gcloud_stand_in import World
from small_tokenizer import trained
from tiny_run import CONVERSATIONS

from cloud import tpu_command, watch
from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.upload import upload

ROOT = Path(__file__).parents[2]
STEPS = 120
CONFIG = {
    "data": {"path": f"gs://{BUCKET}/pages"},
    "model": {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 307},
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
    "train": {"max_steps": STEPS, "batch_size": 32},
    "eval": {"every": STEPS, "batches": 1, "sample_tokens": 0},
    "checkpoint": {"every": 10},
    "log": {"every": 1, "tensorboard": False},
}


def make_pages(folder: Path) -> Path:
    (folder / "talk.jsonl").write_text("".join(json.dumps(turns) + "\n" for turns in CONVERSATIONS))
    trained([turn for turns in CONVERSATIONS for turn in turns]).save(folder / "tokenizer")
    options = Options(
        source=[f"dialogue:{folder / 'talk.jsonl'}"],
        tokenizer=str(folder / "tokenizer"),
        format="eos",
        row_length=32,
        valid_fraction=0.3,
    )
    make(options, folder / "pages", processes=1)
    return folder / "pages"


def losses(run: Path) -> dict[int, float]:
    """By step."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    found: dict[int, float] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue  # being written
        if "loss" in values:
            found[values["step"]] = values["loss"]
    return found


def undisturbed(config: Path, folder: Path) -> dict[int, float]:
    """The losses of one process with as many devices."""
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "jaxgpt", "train", "--config", str(config), "--output", str(folder / "alone")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=200)
    return losses(folder / "alone")


@pytest.mark.slow
def test_a_run_survives_its_hosts_and_its_slice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "_GRACE", 2.0)  # seconds that hosts have which wait for a lost one
    monkeypatch.setenv("JAXGPT_BUCKET", f"gs://{BUCKET}")
    monkeypatch.setenv("JAXGPT_PURCHASE", "spot")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tmp_path / "pod.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    before: list[dict[int, float]] = []  # what host 0 had logged when something was lost
    run = world.home(0) / "jaxgpt" / "runs" / "jaxgpt"

    def lose_at(step: int, lose: Callable[[], object]) -> None:
        until = time.monotonic() + 150
        while max(losses(run), default=0) < step and time.monotonic() < until:
            time.sleep(0.05)
        before.append(losses(run))
        lose()

    def trouble() -> None:
        lose_at(35, lambda: world.kill(2))
        lose_at(75, world.preempt)

    with bucket_server():
        upload(make_pages(tmp_path), f"gs://{BUCKET}/pages")
        assert tpu_command.main(["create"]) == 0
        assert tpu_command.main(["setup"]) == 0
        assert tpu_command.main(["train", "--config", str(config)]) == 0
        troubles = threading.Thread(target=trouble, daemon=True)
        troubles.start()
        assert tpu_command.main(["watch", "--every", "3"]) == 0
        troubles.join(timeout=1)
        assert not troubles.is_alive()
        capfd.readouterr()
        assert tpu_command.main(["status"]) == 0
        assert len(re.findall(rf" done +{STEPS} of {STEPS} ", capfd.readouterr().out)) == 4
        command = f"jaxgpt perplexity --model ~/jaxgpt/runs/jaxgpt --data gs://{BUCKET}/pages --json"
        said = subprocess.run(
            [sys.executable, str(ROOT / "cloud" / "tpu"), "ssh", command], capture_output=True, text=True, check=True
        )
        perplexity = json.loads(said.stdout.splitlines()[-1])["token_perplexity"]
        first, second, last = *before, losses(run)
        log = (world.home(0) / "jaxgpt" / "logs" / "jaxgpt.log").read_text()
        assert tpu_command.main(["delete"]) == 0
        expected = undisturbed(config, tmp_path)
    with world.state() as state:
        assert not state["nodes"]
    assert len(world.calls("tpu-vm create")) == 2

    assert max(first) >= 35
    assert max(second) >= 75
    assert max(last) == STEPS
    # From a checkpoint in the bucket, since the disks went with the slice.
    assert re.search(rf"fetched step \d0 from gs://{BUCKET}/runs/jaxgpt", log)
    # What was computed twice came out the same, and all of it is what one process computes. The last log may lack the
    # beginning: logs come to the bucket less often than checkpoints.
    for one, two in ((first, second), (first, last), (second, last)):
        assert {step: one[step] for step in one.keys() & two.keys()} == {
            step: two[step] for step in one.keys() & two.keys()
        }
    curve = first | second | last
    assert sorted(curve) == list(expected) == list(range(1, STEPS + 1))
    assert [curve[step] for step in expected] == pytest.approx(list(expected.values()), rel=1e-4)
    assert curve[STEPS] < curve[1] - 0.5
    assert 1 < perplexity < 307
