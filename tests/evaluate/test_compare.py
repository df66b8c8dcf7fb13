"""`jaxgpt compare`: the table's numbers are those of `jaxgpt perplexity`, and the report is whole."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from transformers import GPT2LMHeadModel

from jaxgpt.commands.comparing import compare
from jaxgpt.commands.measuring import perplexity
from jaxgpt.errors import UserError
from jaxgpt.evaluate import compare as module
from jaxgpt.evaluate.curve import read_curve
from jaxgpt.train.flops import train_flops_per_token
from jaxgpt.train.run import read_model_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "ate", "one", "fish"]
    random = np.random.default_rng(0)
    rows = [{"text": " ".join(random.choice(words, 30))} for _ in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{file}"


@pytest.fixture(scope="module")
def report(tags_run, sep_run, text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report") / "new" / "report"
    models = [str(tags_run.run), str(tags_run.hf), str(sep_run.run)]
    given = ["--data", text, "--output", str(folder), "--prompt", "the <cat>", "--new_tokens", "4"]
    compare([*models, *given])
    return folder, json.loads((folder / "report.json").read_text())


def test_the_figures_are_those_of_perplexity(report, tags_run, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    perplexity(["--model", str(tags_run.run), "--data", text, "--json"])
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report[1]["models"][0]["figures"][text] == alone["figures"]


def test_what_a_model_is_and_took(report, tags_run) -> None:
    run, folder, _ = report[1]["models"]
    cfg = read_model_config(tags_run.run)
    assert run["n_parameters"] == cfg.n_params
    assert run["step"] == 2
    assert run["tokens"] == 2 * 8 * 47  # steps, rows, tokens of a row
    assert run["flops"] == pytest.approx(run["tokens"] * train_flops_per_token(cfg, 47))
    assert [folder[name] for name in ("step", "tokens", "flops", "hours")] == 4 * [None]
    assert len(run["samples"]) == 1


def test_the_same_weights_do_not_differ_and_other_tokenizers_are_compared_by_words_only(report, tags_run, text) -> None:
    content = report[1]
    of_hf = [found for found in content["differences"][text] if found["other"] == str(tags_run.hf)]
    assert [found["protocol"].split("[")[0] for found in of_hf] == ["token", "word", "bits_per_byte"]
    assert all(abs(found["difference"]) < 1e-6 for found in of_hf)
    others = [found["protocol"] for found in content["differences"][text] if found["other"] != str(tags_run.hf)]
    assert others == ["word", "bits_per_byte"]
    assert "different tokenizers" in content["left_out"][0]


def test_the_folder_has_the_table_the_pictures_and_one_page_with_all(report, text: str) -> None:
    folder, content = report
    table = (folder / "table.md").read_text()
    assert f"## {text}" in table
    for model in content["models"]:
        assert model["name"] in table
    page = (folder / "report.html").read_text()
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == [
        "loss_by_position.png",
        "loss_over_flops.png",
        "loss_over_hours.png",
        "loss_over_tokens.png",
        "perplexity_over_parameters.png",
    ]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "the &lt;cat&gt;" in page


def test_pages_and_dialogue_have_their_figures_too(tags_run, tmp_path: Path) -> None:
    talk = tmp_path / "talk.jsonl"
    talk.write_text("".join(json.dumps(turns) + "\n" for turns in tiny_run.CONVERSATIONS[:5]))
    data = [str(tags_run.pages), f"dialogue:{talk}"]
    compare([str(tags_run.run), str(tags_run.hf), "--data", *data, "--output", str(tmp_path / "report")])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    for spec, protocols in zip(
        data,
        (["token", "word", "bits_per_byte"], ["token", "token[responses]", "word", "bits_per_byte"]),
        strict=True,
    ):
        for model in content["models"]:
            assert [figure["protocol"] for figure in model["figures"][spec]] == protocols
        assert [found["protocol"] for found in content["differences"][spec]] == protocols
        assert all(abs(found["difference"]) < 1e-5 for found in content["differences"][spec])
    assert not (tmp_path / "report" / "loss_by_position.png").exists()


def test_lambada_is_compared_by_last_words_whatever_the_tokenizers(tags_run, sep_run, tmp_path: Path) -> None:
    passages = tmp_path / "l.jsonl"
    passages.write_text("".join(json.dumps({"text": f"passage {n} ends with this word"}) + "\n" for n in range(5)))
    spec = f"lambada:{passages}"
    compare(
        [str(tags_run.run), str(tags_run.hf), str(sep_run.run), "--data", spec, "--output", str(tmp_path / "report")]
    )
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    of_word = ["perplexity[last_word]", "accuracy[last_word]"]
    of_both = [*of_word, "perplexity[last_token]", "accuracy[last_token]"]
    for model in content["models"]:
        assert [figure["protocol"] for figure in model["figures"][spec]] == of_both
    for other, protocols in ((tags_run.hf, of_both), (sep_run.run, of_word)):
        found = [found for found in content["differences"][spec] if found["other"] == str(other)]
        assert [difference["protocol"] for difference in found] == protocols
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        compare(
            [str(tags_run.run), str(tags_run.hf), "--data", "lambada:nothing.jsonl", "--output", str(tmp_path / "x")]
        )


def test_a_curve_by_hand(tags_run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tags_run.run, tmp_path / "run"))
    lines = [
        {"step": 10, "loss": 5.0, "tokens_total": 800},
        {"step": 20, "loss": 4.0, "tokens_total": 800, "step_seconds": 3.6},
        {"step": 20, "valid_loss": 4.5},
        {"step": 25, "valid_loss": 4.25},
        {"step": 30, "loss": 3.0, "tokens_total": 800, "step_seconds": 7.2},
    ]
    half_a_line = '{"step": 40, "lo'
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + half_a_line)
    cfg = read_model_config(run)
    curve = read_curve(run, cfg, batch_size=8)
    assert curve is not None
    assert curve.tokens.tolist() == [8000, 16000, 24000]
    np.testing.assert_allclose(curve.flops, curve.tokens * train_flops_per_token(cfg, 100))
    np.testing.assert_allclose(curve.hours, [5.4 * 10 / 3600, (5.4 + 3.6) * 10 / 3600, (5.4 + 3.6 + 7.2) * 10 / 3600])
    assert (curve.valid_step.tolist(), curve.valid_loss.tolist()) == ([20, 25], [4.5, 4.25])
    assert curve.at(curve.valid_step, curve.tokens).tolist() == [16000, 20000]  # also between two lines


def test_models_of_other_lengths_are_compared_over_the_shorter_one(
    tags_run, text: str, tmp_path: Path, short: Path
) -> None:
    compare([str(tags_run.hf), str(short), "--data", text, "--output", str(tmp_path / "report")])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    for model in content["models"]:
        assert model["figures"][text][0]["protocol"] == "token[context=31,stride=31]"
    assert len(content["differences"][text]) == 3
    assert (tmp_path / "report" / "perplexity_over_parameters.png").exists()


@pytest.fixture
def short(tags_run, tmp_path: Path) -> Path:
    """The same model with half the positions."""
    model = GPT2LMHeadModel.from_pretrained(tags_run.hf)
    model.config.n_positions = model.config.max_position_embeddings = 31
    model.transformer.wpe.weight = torch.nn.Parameter(model.transformer.wpe.weight[:31].clone())
    folder = Path(shutil.copytree(tags_run.hf, tmp_path / "short"))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["--new_tokens", "0"], "--new_tokens is 0; it must be above 0"),
        (
            ["--protocol", "words"],
            "--protocol words is unknown; the protocols are token, word, bits_per_byte, adjusted",
        ),
        (["--context", "62"], "--context is 62; the model takes 2 to 61 tokens"),
    ],
)
def test_a_mistake_is_found_before_anything_is_measured(
    tags_run, text: str, tmp_path: Path, changed: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.DataSets, "measure", None)
    with pytest.raises(UserError, match=expected):
        compare([str(tags_run.run), str(tags_run.hf), "--data", text, "--output", str(tmp_path / "report"), *changed])
    twice = [str(tags_run.run), str(tags_run.run), "--data", text, "--output", str(tmp_path / "report")]
    with pytest.raises(UserError, match="stands there twice"):
        compare(twice)
    with pytest.raises(UserError, match="is a file; give a folder"):
        compare([*twice[:-1], text.partition(":")[2]])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{text} pages:{pages}", "vocabulary of 50257 ids .* does not fit model.vocab_size 50258"),
        ("{text} pages:nowhere", "nowhere"),
        ("{text} dialogue:nowhere.jsonl --format tags", "nowhere.jsonl"),
        ("{text} dialogue:{talk}", "does not say in which format it was trained"),
        ("{text} lambada:{long}", r"passage 1: its last word is \d+ tokens of the tokenizer"),
        ("dialogue:{talk} --format tags --stride 7", "--stride is of texts, which --data .* is not; leave it out"),
        ("{text} --split test", "--split is of pages, which --data .* is not; leave it out"),
        ("{text} --protocol word --stride 7", "--stride is 7, but --protocol word has no windows to choose"),
    ],
)
def test_so_is_what_does_not_fit_one_of_the_models(
    tags_run, sep_run, text: str, tmp_path: Path, arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talk").write_text("".join(json.dumps(turns) + "\n" for turns in tiny_run.CONVERSATIONS[:5]))
    word = "".join(chr(0x4E00 + 37 * n) for n in range(40))
    (tmp_path / "long").write_text(json.dumps({"text": f"what is {word}"}) + "\n")
    bare = Path(shutil.copytree(tags_run.hf, tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    del config["dialogue_format"]
    (bare / "config.json").write_text(json.dumps(config))
    other = sep_run.run if "pages" in arguments else bare
    given = arguments.format(text=text, pages=tags_run.pages, talk=tmp_path / "talk", long=tmp_path / "long").split()
    monkeypatch.setattr(module.DataSets, "measure", None)
    with pytest.raises(UserError, match=expected):
        compare([str(tags_run.run), str(other), "--output", str(tmp_path / "report"), "--data", *given])


def test_one_model_is_nothing_to_compare(tags_run, text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 model to compare; give two or more"):
        compare([str(tags_run.run), "--data", text, "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()
