"""Training and evaluation on pages in a bucket give what they give on the same pages in a folder."""

import json
from dataclasses import replace

import pytest
from bucket_server import BUCKET, bucket_server
from tiny import metrics_of, run_config, write_pages

from jaxgpt.cli import perplexity
from jaxgpt.config import DataConfig
from jaxgpt.data.upload import upload
from jaxgpt.train.loop import train


@pytest.mark.slow
def test_pages_in_a_bucket_train_and_evaluate_like_a_folder(tmp_path, capsys):
    pages, url = write_pages(tmp_path / "pages"), f"gs://{BUCKET}/tiny"
    reports = []
    with bucket_server():
        upload(pages, url)
        for path, run in ((str(pages), "local"), (url, "remote")):
            cfg = run_config(pages, tmp_path / run, max_steps=3)
            train(replace(cfg, data=DataConfig(path, cache=str(tmp_path / "cache"))))
            perplexity(["--model", cfg.output, "--data", path, "--cache", str(tmp_path / "cache"), "--json"])
            reports.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert metrics_of(tmp_path / "local") == metrics_of(tmp_path / "remote")
    assert reports[0] == reports[1]
    assert reports[0]["tokens"] == 11 * 32 - 1  # of the split valid
