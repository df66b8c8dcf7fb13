"""What the pages hold against what went in: text, roles, counts and splits, on any number of processes."""

import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from build_command import run
from built_pages import EOS, hash_of, rows_of
from small_corpora import random_talks, write_talks

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.manifest import load_manifest
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

SEP = 50257
TALKS = [
    ["Hello world", "I've 123"],
    ["naïve 🤖?", "two\n\nparagraphs", "<|endoftext|> typed", "and <sep> too"],
    ["A:", ":B", "..."],
    ["Tab\tand  spaces", "四五六", "ok", "ok", "ok", "ok", "ok"],
]


def segments_of(folder, split):
    """Each packed conversation: its ids and roles."""
    for row in rows_of(folder, split):
        for segment in range(1, int(row["segments"].max()) + 1):
            here = row["segments"] == segment
            yield row["tokens"][here].tolist(), row["roles"][here].tolist()
        assert not row["weights"][row["segments"] == 0].any()


def turns_of(ids, roles, format_name, tokenizer):
    """(text, role) of each turn, from a conversation's ids."""
    if format_name == "tags":
        texts = tokenizer.decode(ids).split("\n\n\n")
        assert texts.pop() == ""
        assert [text[:2] for text in texts] == [("A:", "B:")[number % 2] for number in range(len(texts))]
        role_changes = [role for at, role in enumerate(roles) if at == 0 or roles[at - 1] != role]
        return list(zip([text[2:] for text in texts], role_changes, strict=True))
    ending = {"eos": EOS, "sep": SEP}[format_name]
    if format_name == "sep":
        assert ids[0] == SEP
        ids, roles = ids[1:], roles[1:]
    turns, start = [], 0
    for at in [at for at, token in enumerate(ids) if token == ending]:
        (role,) = set(roles[start:at])
        turns.append((tokenizer.decode(ids[start:at]), role))
        start = at + 1
    assert start == len(ids)
    return turns


def talks_of(folder, split):
    manifest, tokenizer = load_manifest(folder), load_tokenizer(str(folder / "tokenizer"))
    return [turns_of(*segment, manifest.dialogue_format, tokenizer) for segment in segments_of(folder, split)]


def with_roles(talks):
    return sorted([(text, number % 2) for number, text in enumerate(talk)] for talk in talks)


@pytest.mark.parametrize("format_name", ["eos", "tags", "sep"])
def test_pages_give_the_conversations_back(tmp_path, format_name):
    spec = write_talks(tmp_path / "talks.jsonl", TALKS)
    options = Options([spec], format=format_name, row_length=61, shards=2, valid_fraction=0.3)
    manifest = make(options, tmp_path / "out", 1)
    found = talks_of(tmp_path / "out", "train") + talks_of(tmp_path / "out", "valid")
    assert sorted(found) == with_roles(TALKS)
    assert manifest == load_manifest(tmp_path / "out")
    assert (manifest.vocab_size, manifest.dialogue_format) == (50257 + (format_name == "sep"), format_name)
    assert not (tmp_path / "out" / ".build").exists()


def test_text_gives_the_documents_back(tmp_path):
    """Stripped of nothing; a file of white space is left out and counted."""
    texts = ["First\n\ndocument <|endoftext|> \r\n", "\ufeffmarked", " third 🤖", "fourth", " \n"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    manifest = make(Options([f"text:{tmp_path}/*.txt"], row_length=11, shards=3, valid_fraction=0), tmp_path / "o", 2)
    tokenizer, found = load_tokenizer("gpt2"), []
    for shard, info in zip(manifest.open_shards(tmp_path / "o", "train"), manifest.splits["train"].shards, strict=True):
        if not info.records:
            continue
        stream = shard.read(np.arange(len(shard)))["tokens"].reshape(-1).tolist()
        assert stream[0] == EOS
        assert stream[info.tokens - 1 :] == [EOS] * (len(stream) - info.tokens + 1)
        start = 1
        for at in range(1, info.tokens):
            if stream[at] == EOS:
                found.append(tokenizer.decode(stream[start:at]))
                start = at + 1
    kept = [text.removeprefix("\ufeff") for text in texts[:4]]
    assert sorted(found) == sorted(kept)
    split = manifest.splits["train"]
    n_ids = sum(len(tokenizer.encode(text)) for text in kept)
    assert (split.documents, split.targets, split.tokens) == (4, n_ids + 4, n_ids + 4 + 3)
    assert (split.text_bytes, split.words) == (sum(len(text.encode()) for text in kept), 3 + 1 + 2 + 1)
    (source,) = manifest.sources
    counts = {"files": 5, "read": 5, "kept": 4, "dropped: empty document": 1}
    counts |= {"tokens": split.targets, "text_bytes": split.text_bytes}
    assert source == {"source": f"text:{tmp_path}/*.txt", **counts}


@pytest.mark.parametrize(
    ("loss_on", "targets", "text_bytes", "words"), [("all", 20, 74, 14), ("responses", 16, 52, 10)]
)
def test_counts_by_hand(tmp_path, loss_on, targets, text_bytes, words):
    """Two conversations stay, one of them cut into four; a single turn, an empty one and a blank line do not."""
    lines = ['["Hello world", " I\'ve 123 "]', '["only one"]', '["  ", "x"]', "", json.dumps(["Hello world"] * 5)]
    (tmp_path / "talks.jsonl").write_text("\r\n".join(lines))
    options = Options([f"dialogue:{tmp_path}/talks.jsonl"], loss_on=loss_on, row_length=8, shards=1, valid_fraction=0)
    manifest = make(options, tmp_path / "out", 1)
    (source,) = manifest.sources
    counts = {"files": 1, "read": 4, "kept": 2, "turns": 7, "dropped: fewer than two turns": 2}
    counts |= {"conversations_cut": 1, "pieces_of_cut_conversations": 4, "tokens": 31, "text_bytes": 74}
    counts |= {"examples": {"fewer than two turns": ["only one", "x"]}}
    assert source == {"source": options.source[0], **counts}
    assert manifest.splits.keys() == {"train"}
    split = manifest.splits["train"]
    # 7 tokens, and 4 pieces of two turns of 3 tokens; the first token of a conversation is no target.
    assert (split.documents, split.tokens, split.records) == (2, 7 + 4 * 6, 5)
    assert (split.targets, split.text_bytes, split.words) == (targets, text_bytes, words)
    assert sum(int((row["weights"] > 0).sum()) for row in rows_of(tmp_path / "out", "train")) == targets
    (shard,) = split.shards
    assert shard.bytes == (tmp_path / "out" / shard.file).stat().st_size
    assert (shard.records, shard.tokens) == (5, 31)


@pytest.mark.slow
def test_same_bytes_on_any_number_of_processes_and_a_second_call_reuses(tmp_path, capsys):
    """The input spans several blocks, so that lines cross their borders."""
    talks = random_talks(7001)
    spec = write_talks(tmp_path / "talks.jsonl", talks)
    assert (tmp_path / "talks.jsonl").stat().st_size > 2 * (1 << 18)
    options = Options([spec], row_length=128, shards=3, valid_fraction=0.1)
    for processes in (1, 2):
        make(options, tmp_path / f"by {processes}", processes)
    before = hash_of(tmp_path / "by 1")
    assert hash_of(tmp_path / "by 2") == before
    found = [talk for split in ("train", "valid") for talk in talks_of(tmp_path / "by 1", split)]
    assert sorted(found) == with_roles(talks)

    capsys.readouterr()
    again = make(options, tmp_path / "by 1", 1)
    assert f"{tmp_path / 'by 1'} already holds these pages" in capsys.readouterr().out
    assert again == load_manifest(tmp_path / "by 1")
    assert hash_of(tmp_path / "by 1") == before


@pytest.mark.slow
def test_adding_a_file_moves_no_conversation_between_splits(tmp_path):
    old, new = random_talks(397, seed=1), random_talks(211, seed=2)
    spec = write_talks(tmp_path / "a.jsonl", old)
    write_talks(tmp_path / "b.jsonl", [*new, *old[:7]])  # equal conversations belong to one split
    alone = Options([spec], row_length=128, shards=2, valid_fraction=0.3, test_fraction=0.2)
    both = replace(alone, source=[f"dialogue:{tmp_path}/*.jsonl"], shards=3)
    smaller_test = replace(alone, test_fraction=0.1)
    members = []
    for number, options in enumerate((alone, both, smaller_test)):
        make(options, tmp_path / str(number), 1)
        splits = {split: talks_of(tmp_path / str(number), split) for split in ("train", "valid", "test")}
        members.append({str(talk): split for split, talks in splits.items() for talk in talks})
        sizes = Counter({split: len(talks) for split, talks in splits.items()})
        assert sum(sizes.values()) == (615 if number == 1 else 397)
        n = len(members[number])
        assert abs(sizes["valid"] - 0.3 * n) < 5 * (0.3 * 0.7 * n) ** 0.5
    assert len(members[0]) == 397
    assert len(members[1]) == 397 + 211
    assert members[1].items() >= members[0].items()
    in_valid = [{talk for talk, split in of.items() if split == "valid"} for of in members]
    assert in_valid[0] == in_valid[2]
    assert {talk for talk, split in members[2].items() if split == "test"} < {
        talk for talk, split in members[0].items() if split == "test"
    }


@pytest.mark.slow
def test_another_build_or_a_foreign_folder_is_refused_untouched(tmp_path):
    spec = write_talks(tmp_path / "talks.jsonl", TALKS)
    options = Options([spec], row_length=61, shards=1)
    make(options, tmp_path / "out", 1)
    before = hash_of(tmp_path / "out")
    for other, difference in (
        (replace(options, row_length=67), "--row_length was 61, now 67"),
        (replace(options, seed=43), "--seed was 42, now 43"),
    ):
        with pytest.raises(UserError) as error:
            make(other, tmp_path / "out", 1)
        assert difference in str(error.value)
    write_talks(tmp_path / "talks.jsonl", [*TALKS, ["one", "more"]])
    with pytest.raises(UserError, match=r"talks\.jsonl has changed"):
        make(options, tmp_path / "out", 1)
    assert hash_of(tmp_path / "out") == before

    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    before = hash_of(tmp_path / "foreign")
    for output in (tmp_path / "foreign", tmp_path / "foreign" / "thesis.txt"):
        with pytest.raises(UserError, match="already holds something else"):
            make(options, output, 1)
    assert hash_of(tmp_path / "foreign") == before


def test_command_line(tmp_path):
    """Reports, JSON in the last line, exit codes; another build of the same output is refused with 2."""
    write_talks(tmp_path / "talks.jsonl", TALKS)
    arguments = [f"dialogue:{tmp_path}/*.jsonl", tmp_path / "out", "--row_length", "61", "--shards", "1"]
    arguments += ["--valid_fraction", "0"]
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["output"] == str(tmp_path / "out")
    assert last["splits"]["train"]["documents"] == len(TALKS)
    row = next(line for line in done.stdout.splitlines() if line.startswith("dialogue:"))
    assert row.split()[1:5] == ["1", "4", "4", "0"]  # files, read, kept, dropped
    before = hash_of(tmp_path / "out")
    done = run(*arguments, "--format", "sep")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "--format was eos, now sep" in line
    assert hash_of(tmp_path / "out") == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "dialogue"])
def test_tensorflow_datasets_reads_the_pages(tmp_path, kind, monkeypatch):
    """Also where shards of valid are empty, and where the whole of test is."""
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "")
    import tensorflow_datasets as tfds

    if kind == "text":
        for number, talk in enumerate(random_talks(13)):
            (tmp_path / f"{number}.txt").write_text("\n".join(talk))
        source = f"text:{tmp_path}/*.txt"
    else:
        source = write_talks(tmp_path / "talks.jsonl", random_talks(13))
    options = Options([source], row_length=61, shards=5, valid_fraction=0.2, test_fraction=1e-6)
    manifest = make(options, tmp_path / "out", 1)
    assert 0 in [shard.records for shard in manifest.splits["valid"].shards]
    assert manifest.splits["valid"].records > 0
    assert manifest.splits["test"].records == 0
    builder = tfds.builder_from_directory(tmp_path / "out")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        name: split.records for name, split in manifest.splits.items()
    }
    for split in ("train", "valid"):
        read = list(tfds.as_numpy(builder.as_dataset(split=split)))
        ours = list(rows_of(tmp_path / "out", split))
        assert len(read) == len(ours)
        for name, dtype in manifest.page_format.columns.items():
            assert {row[name].dtype for row in read} == {dtype}
            assert sorted(row[name].tolist() for row in read) == sorted(row[name].tolist() for row in ours)
