"""What is measured of a model: in which arithmetic, with which vocabulary, and by a tokenizer that keeps the text."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from jaxgpt.commands.comparing import compare
from jaxgpt.commands.measuring import perplexity
from jaxgpt.config import RUN_FILE
from jaxgpt.evaluate.measuring import measure_on
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.scoring import rows_at_once
from jaxgpt.evaluate.subject import open_subject

pytestmark = pytest.mark.slow


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": f"the cat sat on {n} mats"}) + "\n" for n in range(9)))
    return f"jsonl:{file}"


def test_a_run_in_bfloat16_is_measured_in_float32(tags_run, tmp_path: Path, text: str) -> None:
    half = Path(shutil.copytree(tags_run.run, tmp_path / "half"))
    settings = (half / RUN_FILE).read_text()
    assert "dtype: float32" in settings
    (half / RUN_FILE).write_text(settings.replace("dtype: float32", "dtype: bfloat16"))
    for data in (text, str(tags_run.pages)):
        found, expected = (
            measure_on(open_subject(str(run), None, None, None), DataOptions(data)) for run in (half, tags_run.run)
        )
        assert found["figures"] == expected["figures"]


def lossy(hf: Path, folder: Path) -> Path:
    """The model with a tokenizer that knows four words."""
    shutil.copytree(hf, folder)
    for file in [*folder.glob("*token*"), *folder.glob("vocab*"), *folder.glob("merges*")]:
        file.unlink()
    words = {word: number for number, word in enumerate(["<unk>", "</s>", "the", "cat", "sat", "on"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_that_loses_text_is_told_of(
    tags_run, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lossy(tags_run.hf, tmp_path / "lossy")
    perplexity(["--model", str(model), "--data", text, "--json"])
    out = capsys.readouterr().out
    (warning,) = json.loads(out.splitlines()[-1])["warnings"]
    assert warning in out.partition("{")[0]
    assert f"{model} does not keep the text: 9 of 9 documents of {text} don't come back" in warning
    compare([str(tags_run.hf), str(model), "--data", text, "--output", str(tmp_path / "report")])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["left_out"][0] == warning


def test_figures_over_other_units_say_so(tags_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wiki"
    file.write_text("\n = One = \n\n the cat sat .\n\n = Two = \n\n on a mat .\n")
    perplexity(["--model", str(tags_run.hf), "--data", f"wikitext2:{file}", "--protocol", "word", "adjusted"])
    out = capsys.readouterr().out
    assert "intervals over documents: word\n" in out
    assert "intervals over windows: adjusted[context=61,stride=61]\n" in out


@pytest.mark.parametrize(
    ("backend", "length", "n_devices", "most", "rows"),
    [
        ("cpu", 256, 1, None, 4),
        ("cpu", 256, 1, 3, 3),
        ("cpu", 256, 1, 64, 4),
        ("cpu", 2048, 8, 1, 8),
        ("gpu", 1024, 1, None, 8),
        ("gpu", 1024, 4, None, 32),
        ("gpu", 1024, 4, 3, 4),
        ("gpu", 1024, 4, 130, 132),
    ],
)
def test_rows_at_once(
    backend: str, length: int, n_devices: int, most: int | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    assert rows_at_once(length, n_devices, most) == rows
