"""Property tests: whatever conversations and documents go in come back from the shards, token for token."""

import json
import struct
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from built_pages import rows_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_tokenizer import trained

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.tokenizer import load_tokenizer

FRAGMENTS = (
    *("<|endoftext|>", "<sep>", "A:", "B:", ":", ":)", "...", "EOS", "\t1.0 ", "hello", " the cat", "I've 123"),
    *("\n", "\n\n", "\n\n\n", "\n\n\n\n\n", " ", "\r\n", "\x00", "\x1f", "\x7f", "\x85", "\u2028", "\ufeff", "\u200d"),
    *("naïve", "e\u0301", "四五六", "ไทย", "🤖", "👩\u200d👩\u200d👧", "\U0010ffff"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=3).map("".join)
# Some are longer than a row.
TEXTS = st.tuples(TEXTS, st.sampled_from([1, 1, 1, 1, 2, 20])).map(lambda pair: pair[0] * pair[1])
WEIGHTS = st.sampled_from([0.0, 1.0, 1.0]) | st.floats(0, width=32, allow_nan=False, allow_infinity=False)
TALKS = st.lists(st.lists(st.tuples(TEXTS, st.integers(0, 1), WEIGHTS), max_size=6), min_size=4, max_size=40)
DOCUMENTS = st.lists(TEXTS, min_size=4, max_size=40)
ROW_LENGTHS = st.sampled_from([8, 13, 29, 61])
TOKEN = 9
# What always remains, because a build of nothing is refused.
HELLO, BOOK = [("hello", 0, 1.0), ("hi", 1, 1.0)], "a book"

# Nothing is shrunk: an example is a whole build, and shrinking takes hundreds of them.
no_shrinking = settings(deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
by_examples = settings(no_shrinking, max_examples=15)


@pytest.fixture(scope="module")
def small_tokenizer(tmp_path_factory):
    """A folder with a byte-level tokenizer of few merges: it loads at once, GPT-2's takes a second."""
    texts = ["hello, the cat asked why...\n\n\nA:the naïve cat 123\n\n\n <|endoftext|>"] * 9
    folder = tmp_path_factory.mktemp("tokenizer")
    trained(texts, vocab_size=301).backend.save(str(folder / "tokenizer.json"))
    return folder


def write_lines(path, values, ensure_ascii):
    path.write_text("".join(json.dumps(value, ensure_ascii=ensure_ascii) + "\n" for value in values), encoding="utf-8")


def as_object(talk):
    return {"turns": [{"text": text, "role": role, "weight": weight} for text, role, weight in talk]}


def kept_of(talks):
    """Talks as they should be in the pages, and how many are dropped for which reason."""
    kept, dropped = [], Counter()
    for talk in talks:
        turns = [(text.strip(), role, weight) for text, role, weight in talk if text.strip()]
        if len(turns) < 2:
            dropped["dropped: fewer than two turns"] += 1
        elif not any(weight for *_, weight in turns):
            dropped["dropped: no turn that counts"] += 1
        else:
            kept.append(turns)
    return kept, dropped


def shortened(text):
    """No three newlines in a row, which end a turn in the format tags."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def written(talk, name, tokenizer):
    """A talk as (id, role, weight) of each token, and where its turns begin."""
    tokens, starts = [], []
    for number, (text, role, weight) in enumerate(talk):
        starts.append(len(tokens))
        if name == "tags":
            tokens += [(token, role, weight) for token in tokenizer.encode(f"{'AB'[role]}:{shortened(text)}\n\n\n")]
            continue
        if name == "sep" and not number:
            tokens.append((tokenizer.token_id("<sep>"), role, weight))
        tokens += [(token, role, weight) for token in tokenizer.encode(text)]
        if name == "eos":
            tokens.append((tokenizer.eos_token_id, role, weight))
        else:
            following = talk[number + 1][1] if number + 1 < len(talk) else 1 - role
            tokens.append((tokenizer.token_id("<sep>"), following, weight))
            starts[-1] -= number > 0  # this token opens the next turn as well
    return [(*tokens[0][:2], 0.0), *tokens[1:]], starts


def as_one_turn(document, tokenizer):
    """A document between two end-of-text tokens, so that its first token is predicted too."""
    ids = [tokenizer.eos_token_id, *tokenizer.encode(document), tokenizer.eos_token_id]
    return [(token, 0, float(at > 0)) for at, token in enumerate(ids)], [0]


def packed(tokens):
    """Of a list of (id, role, weight), TOKEN bytes each."""
    return b"".join(struct.pack("<IBf", *token) for token in tokens)


def pieces_of(folder, split):
    """Each piece of a conversation in the shards, packed."""
    for row in rows_of(folder, split):
        tokens = list(zip(*(row[name].tolist() for name in ("tokens", "roles", "weights")), strict=True))
        segments = row["segments"].tolist()
        used = sum(segment > 0 for segment in segments)
        assert segments[:used] == sorted(segments[:used])
        assert tokens[used:] == [(0, 0, 0.0)] * (len(tokens) - used)
        for segment in range(1, max(segments) + 1):
            yield packed(token for token, of in zip(tokens, segments, strict=True) if of == segment)


def take_apart(pieces, tokens, starts, row_length):
    """Takes one conversation's pieces out of a Counter of pieces; returns how many they were.

    Each begins with the last turn of the one before, or only its last token where the next turn would not fit as well.
    What is repeated has weight 0, so every token of the conversation counts exactly once, with its weight.
    """
    counting, silent = packed(tokens), packed((token, role, 0.0) for token, role, _ in tokens)
    done = number = 0
    while done < len(tokens):
        begin = max((start for start in starts if start < done), default=0)
        if min((start for start in starts if start > done), default=len(tokens)) - begin > row_length:
            begin = max(done - 1, 0)
        context = silent[TOKEN * begin : TOKEN * done]
        ends = range(min(begin + row_length, len(tokens)), done, -1)
        longest_first = (context + counting[TOKEN * done : TOKEN * end] for end in ends)
        piece = next((piece for piece in longest_first if pieces[piece]), None)
        assert piece is not None, f"token {done} of {tokens} is in no piece"
        pieces[piece] -= 1
        done = begin + len(piece) // TOKEN
        number += 1
    return number


def texts_of(tokens, name, tokenizer):
    """The turns' texts, from the ids of a conversation."""
    ids = [token for token, *_ in tokens]
    if name == "tags":
        return [text[2:] for text in tokenizer.decode(ids).split("\n\n\n")[:-1]]
    ending = tokenizer.eos_token_id if name == "eos" else tokenizer.token_id("<sep>")
    edges = [
        -1 if name == "eos" else 0,
        *(at for at, token in enumerate(ids) if token == ending and (at or name == "eos")),
    ]
    return [tokenizer.decode(ids[start + 1 : stop]) for start, stop in pairwise(edges)]


def check_talks(folder, name, talks, documents, row_length, tokenizer_name, ensure_ascii):
    """Builds pages of talks, and of documents where there are any, and takes them apart again."""
    talks, documents = [*talks, HELLO], documents and [*documents, BOOK]
    write_lines(folder / "talks.jsonl", map(as_object, talks), ensure_ascii)
    sources = [f"dialogue:{folder}/talks.jsonl"]
    if documents:
        write_lines(folder / "documents.jsonl", [{"text": text} for text in documents], ensure_ascii)
        sources.append(f"jsonl:{folder}/documents.jsonl")
    options = Options(
        sources, tokenizer=tokenizer_name, format=name, row_length=row_length, shards=3, valid_fraction=0.3
    )
    manifest = make(options, folder / "out", 1)
    tokenizer = load_tokenizer(str(folder / "out" / "tokenizer"))

    pieces = Counter(piece for split in manifest.splits for piece in pieces_of(folder / "out", split))
    weights = [weight for piece in pieces.elements() for *_, weight in struct.iter_unpack("<IBf", piece)]
    kept, dropped = kept_of(talks)
    numbers = []
    for talk in kept:
        tokens, starts = written(talk, name, tokenizer)
        assert texts_of(tokens, name, tokenizer) == [shortened(text) if name == "tags" else text for text, *_ in talk]
        numbers.append(take_apart(pieces, tokens, starts, row_length))
    books = [text for text in documents if text.strip()]
    for text in books:
        tokens, starts = as_one_turn(text, tokenizer)
        assert tokenizer.decode([token for token, *_ in tokens[1:-1]]) == text
        take_apart(pieces, tokens, starts, row_length)
    assert not +pieces, "more came out than went in"

    source = manifest.sources[0]
    cut = [number for number in numbers if number > 1]
    counted = {
        key: source[key] for key in source if key.startswith(("read", "kept", "dropped", "turns", "conv", "pie"))
    }
    expected = {"read": len(talks), "kept": len(kept), "turns": sum(map(len, kept)), **dropped}
    if cut:
        expected |= {"conversations_cut": len(cut), "pieces_of_cut_conversations": sum(cut)}
    ended = sum("\n\n\n" in text for talk in kept for text, *_ in talk)
    if name == "tags" and ended:
        expected |= {"turns_with_newlines_shortened": ended}
    assert counted == expected
    counting = [*(text for talk in kept for text, _, weight in talk if weight > 0), *books]
    splits = manifest.splits.values()
    assert sum(split.documents for split in splits) == len(kept) + len(books)
    assert sum(split.targets for split in splits) == sum(weight > 0 for weight in weights)
    assert sum(split.text_bytes for split in splits) == sum(len(text.encode()) for text in counting)
    assert sum(split.words for split in splits) == sum(len(text.split()) for text in counting)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eos", "tags", "sep"])
def test_any_conversations_come_back(tmp_path_factory, small_tokenizer, name):
    @by_examples
    @given(talks=TALKS, row_length=ROW_LENGTHS, ensure_ascii=st.booleans())
    def check(talks, row_length, ensure_ascii):
        check_talks(tmp_path_factory.mktemp("talks"), name, talks, [], row_length, str(small_tokenizer), ensure_ascii)

    check()


@pytest.mark.slow
@by_examples
@given(talks=TALKS, documents=DOCUMENTS, row_length=ROW_LENGTHS, name=st.sampled_from(["eos", "tags", "sep"]))
def test_any_documents_and_conversations_come_back_from_the_same_rows(
    tmp_path_factory, small_tokenizer, talks, documents, row_length, name
):
    folder = tmp_path_factory.mktemp("mixed")
    check_talks(folder, name, talks, documents, row_length, str(small_tokenizer), False)


@pytest.mark.slow
@settings(no_shrinking, max_examples=3)
@given(talks=TALKS, documents=DOCUMENTS, name=st.sampled_from(["eos", "tags", "sep"]))
def test_any_text_comes_back_from_ids_of_gpt2(tmp_path_factory, talks, documents, name):
    check_talks(tmp_path_factory.mktemp("gpt2"), name, talks, documents, 17, "gpt2", False)


def documents_of(manifest, folder, split, eos):
    """Of a split's shards, the ids between two end-of-text tokens."""
    for shard, info in zip(manifest.open_shards(folder, split), manifest.splits[split].shards, strict=True):
        stream = shard.read(np.arange(len(shard)))["tokens"].reshape(-1).tolist() if info.records else []
        assert stream[info.tokens :] == [eos] * (len(stream) - info.tokens)
        at = [at for at, token in enumerate(stream[: info.tokens]) if token == eos]
        assert (at[:1], at[-1:]) == (([0], [info.tokens - 1]) if stream else ([], []))
        for start, stop in pairwise(at):
            yield stream[start + 1 : stop]


@pytest.mark.slow
@by_examples
@given(documents=DOCUMENTS, row_length=ROW_LENGTHS)
def test_any_documents_come_back_in_order(tmp_path_factory, small_tokenizer, documents, row_length):
    folder, documents = tmp_path_factory.mktemp("documents"), [*documents, BOOK]
    write_lines(folder / "documents.jsonl", [{"text": text} for text in documents], False)
    options = Options(
        [f"jsonl:{folder}/documents.jsonl"],
        tokenizer=str(small_tokenizer),
        row_length=row_length,
        shards=3,
        valid_fraction=0.3,
    )
    manifest = make(options, folder / "out", 1)
    tokenizer = load_tokenizer(str(small_tokenizer))
    found = {
        split: [tokenizer.decode(ids) for ids in documents_of(manifest, folder / "out", split, tokenizer.eos_token_id)]
        for split in manifest.splits
    }
    kept = [text for text in documents if text.strip()]
    assert not set(found["train"]) & set(found["valid"])
    for split, texts in found.items():
        assert texts == [text for text in kept if text in set(texts)]
        info = manifest.splits[split]
        assert info.documents == len(texts)
        assert info.targets == sum(len(tokenizer.encode(text)) + 1 for text in texts)
        assert info.text_bytes == sum(len(text.encode()) for text in texts)
        assert info.words == sum(len(text.split()) for text in texts)
    assert sorted(found["train"] + found["valid"]) == sorted(kept)
    (source,) = manifest.sources
    empty = len(documents) - len(kept)
    assert (source["read"], source["kept"]) == (len(documents), len(kept))
    assert source.get("dropped: empty document", 0) == empty
