"""The pages of every kind of source, against the source read by hand: with json, csv, zipfile and str.split."""

import csv
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from built_pages import alternating, build, counts_of, documents_in, turns_in
from small_corpora import random_talks, write_talks
from sources.archives import write_archive

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
GIB = 1 << 30


def real(pattern):
    if not list(DATA.glob(pattern)):
        pytest.skip(f"needs the published files {DATA / pattern}")
    return DATA / pattern


def test_dialogue_of_objects_and_conversations_without_turns(tmp_path):
    lines = [
        [{"text": " a ", "role": 1, "weight": 0}, {"text": "b 🤖", "role": 0, "weight": 0.35}, "c\n\nc"],
        {
            "turns": [
                {"text": "x", "role": "bob"},
                {"text": "y", "role": "ann", "weight": 2},
                {"text": "z", "role": "bob"},
            ]
        },
        [],
        {"turns": []},
        [{"text": "only"}],
        [{"text": "p", "weight": 0}, {"text": "q", "weight": 0}],
    ]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = build(tmp_path / "out", [f"dialogue:{tmp_path}/talks.jsonl"])
    half = float(np.float32(0.35))
    assert turns_in(tmp_path / "out") == [
        [("a", 1, 0), ("b 🤖", 0, half), ("c\n\nc", 0, 1)],
        [("x", 0, 1), ("y", 1, 2), ("z", 0, 1)],
    ]
    assert counts_of(manifest) == {
        "read": 6,
        "kept": 2,
        "dropped: fewer than two turns": 3,
        "dropped: no turn that counts": 1,
        "examples": {"fewer than two turns": ["only"], "no turn that counts": ["p"]},
    }


def test_chat(tmp_path):
    lines = [
        {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?", "weight": 0.5}]},
        {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]},
        [
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]},
            {"role": "user", "content": "b"},
        ],
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = build(tmp_path / "out", [f"chat:{tmp_path}/chat.jsonl"])
    assert turns_in(tmp_path / "out") == [
        [("hi", 0, 1), ("yes?", 1, 0.5)],
        [("one", 0, 1), ("two", 1, 1)],
        [("a", 1, 1), ("b", 0, 1)],
    ]
    counts = counts_of(manifest)
    assert (counts["read"], counts["kept"]) == (4, 3)
    dropped = {name: count for name, count in counts.items() if name.startswith("dropped")}
    assert dropped == {
        "dropped: system message": 1,
        "dropped: image_url in a message": 1,
        "dropped: fewer than two turns": 1,
    }
    assert counts["examples"]["system message"] == ["be kind"]


def test_dialogpt_in_both_directions(tmp_path):
    """Weights stay real numbers; reversed, the turn that opened the talk is learnt."""
    lines = ["0.0 a EOS 0.25 b\t0.75 c", "x\t1.5 y\t0.125 z", "0.0 p\t0.0 q"]
    (tmp_path / "train.tsv").write_text("".join(line + "\n" for line in lines))
    for reverse in (False, True):
        manifest = build(tmp_path / str(reverse), [f"dialogpt:{tmp_path}/train.tsv"], reverse=reverse)
        assert counts_of(manifest) == {
            "read": 3,
            "kept": 3,
            "dropped: no turn with a weight": 1,
            "examples": {"no turn with a weight": [lines[2]]},
        }
    assert turns_in(tmp_path / "False") == [
        [("a", 0, 0), ("b", 1, 0.25), ("c", 0, 0.75)],
        [("x", 0, 0), ("y", 1, 1.5)],
        [("x", 0, 0), ("z", 1, 0.125)],
    ]
    assert turns_in(tmp_path / "True") == [
        [("c", 0, 0), ("b", 1, 0.25), ("a", 0, 0.75)],
        [("y", 0, 0), ("x", 1, 1)],
        [("z", 0, 0), ("x", 1, 1)],
    ]


def test_reddit(tmp_path):
    """Two paths share their first comment; one comment is too short, one was deleted and cuts its reply off."""
    comments = [
        ("a", "t3_s", "the first comment"),
        ("b", "t1_a", "a reply to it"),
        ("c", "t1_a", "another &amp; better"),
        ("d", "t1_c", "short"),
        ("e", "t3_s", "[deleted]"),
        ("f", "t1_e", "who said what"),
    ]
    values = [
        {"id": name, "link_id": "t3_s", "parent_id": parent, "body": text, "score": 5}
        for name, parent, text in comments
    ]
    (tmp_path / "RC.zst").write_bytes(zstd.compress("".join(json.dumps(value) + "\n" for value in values).encode()))
    manifest = build(tmp_path / "out", [f"reddit:{tmp_path}/RC.zst"])
    assert turns_in(tmp_path / "out") == [
        alternating(["the first comment", "a reply to it"]),
        alternating(["the first comment", "another & better"]),
    ]
    counts = counts_of(manifest)
    assert counts.pop("examples").keys() == {name.removeprefix("dropped: ") for name in counts if ":" in name}
    assert counts == {
        "read": 2,
        "kept": 2,
        "dropped: comment of under 2 words": 1,
        "dropped: comment that is deleted or removed": 1,
        "dropped: path of under 2 turns": 1,
    }


def multiwoz_text(path):
    talks = [[line.strip() for line in talk.split("\n") if line.strip()] for talk in path.read_text().split("\n\n\n")]
    return [alternating(talk) for talk in talks if talk]


def multiwoz_log(path):
    with zipfile.ZipFile(path) as archive:
        dialogues = json.loads(archive.read(archive.namelist()[0]))
    return [alternating([turn["text"].strip() for turn in dialogue["log"]]) for dialogue in dialogues.values()]


def camrest(path):
    texts = [
        [text.strip() for pair in dialogue["dial"] for text in (pair["usr"]["transcript"], pair["sys"]["sent"])]
        for dialogue in json.loads(path.read_text())
    ]
    return [[turn for turn in alternating(talk) if turn[0]] for talk in texts]


def persuasion(path):
    talks = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            talks.setdefault(row["B2"], []).append((row["Unit"].strip(), int(row["B4"]), 1.0))
    return list(talks.values())


def dialogpt(path):
    pairs = [line.split("\t") for line in path.read_text().splitlines()]
    return [[(source.strip(), 0, 0.0), (target.strip(), 1, 1.0)] for source, target in pairs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pattern", "by_hand"),
    [
        ("multiwoz", "multiwoz22_text/dev_dialogues_001.txt", multiwoz_text),
        ("multiwoz", "multiwoz21/convlab2_val.json.zip", multiwoz_log),
        ("camrest", "camrest/CamRest676.json", camrest),
        ("persuasion", "persuasion/full_dialog.csv", persuasion),
        ("dialogpt", "dialogpt/train_raw.tsv", dialogpt),
    ],
)
def test_published_dialogue(tmp_path, kind, pattern, by_hand):
    path = real(pattern)
    manifest = build(tmp_path / "out", [f"{kind}:{path}"])
    expected = by_hand(path)
    assert sorted(turns_in(tmp_path / "out")) == sorted(expected)
    assert len(expected) > 400
    source = manifest.sources[0]
    assert (source["read"], source["kept"], source["turns"]) == (len(expected), len(expected), sum(map(len, expected)))


def write_parquet(path, texts):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), path, row_group_size=3)


def test_documents_of_several_kinds_come_in_the_order_of_the_sources(tmp_path):
    texts = [f"document {number} naïve 🤖\n" + "word " * (number % 5) for number in range(28)]
    subsets = {
        f"openwebtext/urlsf_subset{number:02d}_data.xz": {
            f"{number}-{at}.txt": text.encode() for at, text in enumerate(texts[number * 4 : number * 4 + 4])
        }
        for number in range(3)
    }
    subsets["openwebtext/urlsf_subset00_data.xz"]["readme.md"] = b"no document"
    write_archive(tmp_path / "openwebtext.tar.xz", subsets)
    write_parquet(tmp_path / "a.parquet", [*texts[12:20], None])
    lines = "".join(json.dumps({"meta": {"body": text}}) + "\n" for text in texts[20:24])
    (tmp_path / "b.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("\n----\n".join(texts[24:]).encode()))
    manifest = build(
        tmp_path / "out",
        [f"openwebtext:{tmp_path}/openwebtext.tar.xz", f"parquet:{tmp_path}/*.parquet", f"text:{tmp_path}/c.txt.gz"],
        separator="----",
    )
    found = documents_in(tmp_path / "out")
    # Within a text file the separator takes the line end before it.
    parts = "\n----\n".join(texts[24:]).split("\n----\n")
    assert found == [*texts[:20], *parts[:-1], parts[-1].removesuffix("\n")]
    assert counts_of(manifest, 0) == {
        "read": 12,
        "kept": 12,
        "dropped: no .txt file": 1,
        "examples": {"no .txt file": [f"{tmp_path}/openwebtext.tar.xz/openwebtext/urlsf_subset00_data.xz/readme.md"]},
    }
    assert counts_of(manifest, 1) == {"read": 9, "kept": 8, "dropped: empty document": 1}
    build(tmp_path / "lines", [f"jsonl:{tmp_path}/b.jsonl.xz"], text_field="meta.body")
    assert documents_in(tmp_path / "lines") == texts[20:24]


@pytest.mark.slow
def test_a_folder_for_hugging_faces_datasets(tmp_path):
    (tmp_path / "set").mkdir()
    texts = [f"document {number} naïve 🤖" for number in range(31)]
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    manifest = build(tmp_path / "out", [f"hf:{tmp_path}/set"], text_field="body")
    assert documents_in(tmp_path / "out") == texts
    assert counts_of(manifest) == {"read": 31, "kept": 31}


def test_text_and_dialogue_in_one_folder(tmp_path):
    """Documents are conversations of one turn then, all of role 0."""
    texts = ["a first document", "the second\n\none 🤖"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    talks = random_talks(11)
    sources = [f"text:{tmp_path}/*.txt", write_talks(tmp_path / "talks.jsonl", talks)]
    manifest = build(tmp_path / "out", sources, row_length=127)
    assert sorted(turns_in(tmp_path / "out")) == sorted(
        [[(text, 0, 1)] for text in texts] + list(map(alternating, talks))
    )
    assert (manifest.kind, manifest.splits["train"].documents) == ("dialogue", 13)
    assert [counts_of(manifest, number)["kept"] for number in (0, 1)] == [2, 11]
