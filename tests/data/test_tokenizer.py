"""GPT-2's ids by hand and by transformers; tokenizers that are saved, extended, missing or broken."""

import json

import pytest
import tokenizers

from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

GOLDEN = {
    "Hello world": [15496, 995],
    " Hello  world\n\n": [18435, 220, 995, 628],
    "I've 123 naïve 🤖": [40, 1053, 17031, 41492, 12520, 97, 244],
    " gazed": [50255],
    "": [],
}


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


@pytest.mark.parametrize(("text", "ids"), GOLDEN.items())
def test_golden_ids(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_batch_gives_the_same_ids(gpt2):
    assert gpt2.encode_batch(list(GOLDEN)) == list(GOLDEN.values())
    assert gpt2.encode_batch([]) == []


def test_facts(gpt2):
    assert (gpt2.vocab_size, gpt2.eos_token, gpt2.eos_token_id) == (50257, "<|endoftext|>", 50256)
    assert gpt2.decode([15496, 50256]) == "Hello<|endoftext|>"


def test_typed_end_of_text_is_text(gpt2):
    typed = "a<|endoftext|>b"
    for ids in (gpt2.encode(typed), *gpt2.encode_batch([typed])):
        assert 50256 not in ids
        assert gpt2.decode(ids) == typed
    # `<`, `|`, `end`, `of`, `text`, `|`, `>`
    assert gpt2.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]


def test_typed_special_token_is_text_after_with_tokens_and_loading(gpt2, tmp_path):
    gpt2.with_tokens(["<sep>"]).save(tmp_path / "saved")
    for tokenizer in (gpt2.with_tokens(["<sep>"]), load_tokenizer(str(tmp_path / "saved"))):
        assert {50256, 50257}.isdisjoint(tokenizer.encode("x <sep> y <|endoftext|>"))
        assert tokenizer.token_id("<sep>") == 50257


def test_with_tokens_is_a_copy(gpt2):
    before = gpt2.hash
    extended = gpt2.with_tokens(["<sep>", "<other>"])
    assert (extended.token_id("<sep>"), extended.token_id("<other>"), extended.vocab_size) == (50257, 50258, 50259)
    assert extended.encode("Hello world") == [15496, 995]
    assert extended.hash != before
    assert (gpt2.hash, gpt2.vocab_size) == (before, 50257)
    assert gpt2.with_tokens([]).hash == before
    with pytest.raises(UserError, match="no token '<sep>'"):
        gpt2.token_id("<sep>")


def test_every_id_goes_there_and_back(gpt2):
    """Each of GPT-2's tokens that is text by itself gives its own text again."""
    texts = [gpt2.decode([token_id]) for token_id in range(0, 50256, 7)]
    whole = [text for text in texts if "\ufffd" not in text]
    assert len(whole) > 6000
    assert [gpt2.decode(ids) for ids in gpt2.encode_batch(whole)] == whole


@pytest.mark.parametrize("extra", [[], ["<sep>"]])
def test_saved_and_loaded(gpt2, tmp_path, extra):
    tokenizer = gpt2.with_tokens(extra)
    tokenizer.save(tmp_path / "new" / "saved")
    for name in (tmp_path / "new" / "saved", tmp_path / "new" / "saved" / "tokenizer.json"):
        loaded = load_tokenizer(str(name))
        assert loaded.hash == tokenizer.hash
        assert (loaded.vocab_size, loaded.eos_token_id) == (50257 + len(extra), 50256)
        assert [loaded.encode(text) for text in GOLDEN] == list(GOLDEN.values())


def test_the_truncation_and_padding_of_a_file_are_not_those_of_text(gpt2, tmp_path):
    folder = tmp_path / "cut"
    gpt2.save(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(str(folder))
    assert loaded.hash == gpt2.hash
    assert [loaded.encode(text) for text in GOLDEN] == list(GOLDEN.values())
    assert loaded.encode_batch(list(GOLDEN)) == list(GOLDEN.values())


def test_saved_file_is_transformers_own(gpt2, tmp_path):
    from transformers import PreTrainedTokenizerFast

    gpt2.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text, ids in GOLDEN.items():
        assert theirs(text)["input_ids"] == ids


def small_tokenizer(specials, path, merges=()):
    vocab = {letter: number for number, letter in enumerate(["a", "b", "ab"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=list(merges)))
    backend.add_special_tokens(specials)
    backend.save(str(path))
    return path


def test_hash_follows_what_decides_ids(tmp_path):
    plain = load_tokenizer(str(small_tokenizer(["</s>"], tmp_path / "plain.json")))
    merged = load_tokenizer(str(small_tokenizer(["</s>"], tmp_path / "merged.json", [("a", "b")])))
    assert (plain.encode("ab"), merged.encode("ab")) == ([0, 1], [2])
    assert plain.hash != merged.hash
    assert (plain.eos_token, plain.eos_token_id, plain.vocab_size) == ("</s>", 3, 4)


def test_unusable_tokenizers_are_the_users_mistake(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    small_tokenizer(["<end>"], tmp_path / "endless.json")
    for name, message in (
        (str(tmp_path / "empty"), "has no tokenizer.json"),
        (str(tmp_path / "broken.json"), "could not be loaded"),
        (str(tmp_path / "other.json"), "could not be loaded"),
        (str(tmp_path / "endless.json"), "neither"),
        (str(tmp_path / "nothing" / "here"), "could not be loaded"),
        ("no-such-owner/no-such-tokenizer", "could not be loaded"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_tokenizer(name)
        assert name in str(error.value)
