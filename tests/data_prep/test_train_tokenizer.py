"""A trained tokenizer: GPT-2's form, transformers' view of it, the same bytes twice, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep import train_tokenizer
from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.kinds import SourceOptions
from data_prep.train_tokenizer import TextCount, TokenizerOptions, make, texts_of
from jaxgpt.data.dialogue import Conversation
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

ROOT = Path(__file__).parent.parent.parent
LAMBADA = ROOT.parent / "shared" / "data" / "lambada" / "lambada_test.jsonl"
TEXTS = ["the cat sat on the mat, the cat ran", "naïve 🤖\n\nthe the  the", "they're here; they're there"] * 5


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return SourceOptions([f"jsonl:{path}"])


def test_gpt2s_form(corpus, tmp_path):
    report = make(corpus, TokenizerOptions(271, ["<sep>", "<pad>"]), tmp_path / "out" / "tokenizer")
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (report["vocab_size"], report["text_bytes"], report["dropped"]) == (271, text_bytes, 0)
    loaded = load_tokenizer(str(tmp_path / "out" / "tokenizer"))
    assert (loaded.vocab_size, loaded.eos_token, loaded.eos_token_id) == (271, "<|endoftext|>", 270)
    assert (loaded.token_id("<sep>"), loaded.token_id("<pad>")) == (268, 269)
    n_tokens = sum(len(loaded.encode(text)) for text in TEXTS)
    assert report["bytes_per_token"] == pytest.approx(text_bytes / n_tokens, abs=1e-4)
    gpt2 = load_tokenizer("gpt2")
    assert report["gpt2_bytes_per_token"] == pytest.approx(
        text_bytes / sum(len(gpt2.encode(text)) for text in TEXTS), abs=1e-4
    )
    # All 256 bytes are there, so every text goes there and back, and a typed special token stays text.
    for text in (*TEXTS, "日本語 \x00\x7f <|endoftext|><sep>", " a", "a "):
        assert loaded.decode(loaded.encode(text)) == text
        assert max(loaded.encode(text)) < 268
    # "the" occurs most often: its first merge is t+h or h+e, and " the" is a token of its own.
    assert loaded.backend.token_to_id("Ġthe") is not None
    assert loaded.encode(" the the")[0] == loaded.encode(" the the")[1]
    assert not list((tmp_path / "out").glob(".*"))


def test_transformers_loads_the_folder(corpus, tmp_path):
    from transformers import AutoTokenizer

    make(corpus, TokenizerOptions(269, ["<sep>"]), tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "tokenizer"))
    ours = load_tokenizer(str(tmp_path / "tokenizer"))
    for text in TEXTS[:3]:
        assert theirs(text)["input_ids"] == ours.encode(text)
    assert (theirs.eos_token_id, len(theirs)) == (268, 269)
    assert theirs("a<sep>b")["input_ids"][1] == ours.token_id("<sep>")


def test_the_same_bytes_twice_by_the_command(tmp_path):
    if not LAMBADA.is_file():
        pytest.skip(f"{LAMBADA} is absent")
    outputs = []
    for number in (1, 2):
        output = tmp_path / f"tokenizer{number}"
        command = [
            sys.executable,
            "data_prep/train_tokenizer.py",
            "--source",
            f"jsonl:{LAMBADA}",
            "--vocab_size",
            "601",
        ]
        command += ["--max_bytes", "200000", "--output", str(output), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": "."})
        report = json.loads(done.stdout.splitlines()[-1])
        assert report.pop("output") == str(output)
        outputs.append((report, {file.name: file.read_bytes() for file in output.iterdir()}))
    assert outputs[0] == outputs[1]
    report, files = outputs[0]
    # It stops with the text that reaches max_bytes.
    assert 200_000 <= report["text_bytes"] < 210_000
    assert report["vocab_size"] == 601
    assert 1.5 < report["bytes_per_token"] < report["gpt2_bytes_per_token"]
    assert set(files) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


@dataclass(frozen=True)
class Fake:
    """Two chunks: one of items, one that is only counted."""

    spec: str = "fake:x"
    holds: str = "dialogue"
    size: int = 10

    def chunks(self, begin, chunk_bytes):
        yield Chunk(0, "x", 0, ["doc", Dropped("bad", count=3), Conversation.alternating(["hi", "you"])])
        yield Chunk(5, "x", 0, Dropped("damaged file", damaged=True))
        yield Chunk(7, "x", 0, ["last"])

    def read(self, chunk):
        yield from chunk.data


def test_texts_of_documents_and_turns():
    count = TextCount()
    assert list(texts_of([Fake()], 0, count)) == ["doc", "hi", "you", "last"]
    assert (count.text_bytes, count.dropped, count.sample) == (12, 4, ["doc", "hi", "you", "last"])
    assert list(texts_of([Fake(), Fake()], 5, TextCount())) == ["doc", "hi"]


def test_a_long_text_is_trained_on_in_pieces(monkeypatch, tmp_path):
    """A text cut where words end counts the same words: the tokenizer is the same."""
    text = " ".join(TEXTS * 3)
    whole = train_tokenizer.train([text], TokenizerOptions(280)).to_str()
    monkeypatch.setattr(train_tokenizer, "_PIECE_CHARACTERS", 61)
    pieces = list(train_tokenizer._pieces([text, "x" * 130, ""]))
    assert "".join(pieces) == text + "x" * 130
    assert max(map(len, pieces)) == 61
    assert len(pieces) > 20
    assert train_tokenizer.train([text], TokenizerOptions(280)).to_str() == whole


def test_refusals(corpus, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n")
    for options, output, message in (
        ({"vocab_size": 257}, "full", "already holds something"),
        ({"vocab_size": 5000}, "new", r"--vocab_size is 5000, but the text has only enough pairs for \d+ tokens"),
        ({"vocab_size": 280, "special_tokens": ["the"]}, "new", "'the' is also a token that text may hold"),
    ):
        with pytest.raises(UserError, match=message):
            make(corpus, TokenizerOptions(**options), tmp_path / output)
        assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    for options, message in (
        ({"vocab_size": 257, "special_tokens": ["<a>"]}, "--vocab_size is 257; it must be 258 or more"),
        ({"min_frequency": 0}, "--min_frequency is 0; it must be 1 or more"),
        ({"max_bytes": -1}, "--max_bytes is -1"),
        ({"special_tokens": ["<a>", "<a>"]}, "each must have text and stand there once"),
        ({"special_tokens": [""]}, "each must have text and stand there once"),
    ):
        with pytest.raises(UserError, match=message):
            TokenizerOptions(**options)
