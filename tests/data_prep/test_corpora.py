"""The pages of every kind of source, against the source read by hand: with json, csv, zipfile and str.split."""

import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from backports import zstd
from test_make_tfrecords import EOS, hash_of, random_talks, rows_of, write_talks

from data_prep import make_tfrecords
from data_prep.clean import Cleaning
from data_prep.local import local_writer
from data_prep.make import make
from data_prep.options import Options
from jaxgpt import command
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
GIB = 1 << 30


def real(pattern):
    if not list(DATA.glob(pattern)):
        pytest.skip(f"needs the published files {DATA / pattern}")
    return DATA / pattern


def build(output, sources, **options):
    """One shard of train, so that nothing but packing changes the order."""
    return make(Options(sources, **{"shards": 1, "valid_fraction": 0, "row_length": 2039} | options), output, 1)


def turns_in(output):
    """Each conversation in the pages as (text, role, weight) of its turns; none may be cut."""
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    talks = []
    for row in rows_of(output, "train"):
        for segment in range(1, int(row["segments"].max()) + 1):
            here = row["segments"] == segment
            tokens, roles, weights = (row[name][here] for name in ("tokens", "roles", "weights"))
            assert weights[0] == 0
            if tokens[0] == EOS:  # a document's first token is predicted from this
                tokens, roles, weights = tokens[1:], roles[1:], weights[1:]
            ends = np.flatnonzero(tokens == EOS)
            assert ends[-1] == len(tokens) - 1
            talk = []
            for start, stop in zip([0, *ends[:-1] + 1], ends, strict=True):
                (role,) = set(roles[start : stop + 1].tolist())
                (weight,) = set(weights[max(start, 1) : stop + 1].tolist())
                talk.append((tokenizer.decode(tokens[start:stop]), role, weight))
            talks.append(talk)
    return talks


def documents_in(output):
    """The documents of the pages of a build with one shard, in order."""
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    stream = np.concatenate([row["tokens"] for row in rows_of(output, "train")])
    texts = [tokenizer.decode(ids) for ids in np.split(stream, np.flatnonzero(stream == EOS))]
    end = load_tokenizer("gpt2").decode([EOS])
    return [text.removeprefix(end) for text in texts if text not in ("", end)]


def alternating(texts, weight=1.0):
    return [(text, index % 2, weight) for index, text in enumerate(texts)]


def counts_of(manifest, number=0):
    """What was read, kept and dropped of a source, and examples of that."""
    source = manifest.sources[number]
    wanted = ("read", "kept", "dropped", "examples", "unicode", "turns with")
    return {name: count for name, count in source.items() if name.startswith(wanted)}


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


def write_archive(path, subsets):
    """OpenWebText's form: an xz-packed tar of xz-packed tars of text files."""

    def tar(files):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    path.write_bytes(lzma.compress(tar({name: lzma.compress(tar(files)) for name, files in subsets.items()})))


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


def test_cleaning_is_counted_with_examples(tmp_path):
    fine = "ok fine then"
    talks = [
        ["hello my friend", "hi you too"],
        *([f"see http://x.y/{number} now", fine] for number in range(4)),
        [fine, "look (here) now"],
        ["THIS IS SHOUTED", fine],
        ["no no no way", fine],
        ["what a darn thing", fine],
        ["short", fine],
        ["schÃ¶n war es", fine],
        [fine, fine, fine, fine, fine],
        ["one two three one two three four five", "one two three four five six"],
    ]
    spec = write_talks(tmp_path / "talks.jsonl", talks)
    (tmp_path / "blocked.txt").write_text("darn\n")
    cleaning = Cleaning(
        fix_unicode=True,
        min_turn_words=2,
        max_turns=4,
        no_urls=True,
        no_brackets=True,
        no_allcaps=5,
        no_repeated_words=True,
        max_repeated_ngrams=0.2,
        ngram=2,
        blocklist=str(tmp_path / "blocked.txt"),
        blocklist_action="weight0",
    )
    manifest = build(tmp_path / "out", [spec], clean=cleaning)
    assert turns_in(tmp_path / "out") == [
        alternating(talks[0]),
        [("what a darn thing", 0, 0), (fine, 1, 1)],
        alternating(["schön war es", fine]),
    ]
    assert counts_of(manifest) == {
        "read": 13,
        "kept": 3,
        "unicode repaired": 1,
        "turns with weight 0 by blocklist": 1,
        "dropped: clean: no_urls": 4,
        "dropped: clean: no_brackets": 1,
        "dropped: clean: no_allcaps": 1,
        "dropped: clean: no_repeated_words": 1,
        "dropped: clean: min_turn_words": 1,
        "dropped: clean: max_turns": 1,
        "dropped: clean: max_repeated_ngrams": 1,
        "examples": {
            "clean: no_urls": [f"see http://x.y/{number} now" for number in range(3)],
            "clean: no_brackets": ["look (here) now"],
            "clean: no_allcaps": ["THIS IS SHOUTED"],
            "clean: no_repeated_words": ["no no no way"],
            "clean: min_turn_words": ["short"],
            "clean: max_turns": [fine],
            "clean: max_repeated_ngrams": [talks[12][0]],
        },
    }
    (tmp_path / "b.txt").write_text("a darn document")
    (tmp_path / "a.txt").write_text("a good document")
    manifest = build(tmp_path / "dropped", [f"text:{tmp_path}/[ab].txt"], clean=Cleaning(blocklist=cleaning.blocklist))
    assert documents_in(tmp_path / "dropped") == ["a good document"]
    assert counts_of(manifest)["examples"] == {"clean: blocklist": ["a darn document"]}


def weighted(talk, weight):
    return [{"text": text, "role": index % 2, "weight": weight} for index, text in enumerate(talk)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "near"])
def test_duplicates_leave_the_first_one(tmp_path, kind):
    """Weights tell the copies apart, which their texts decide. The same bytes by two processes and after a restart."""
    talks = [[*talk, " ".join(f"w{number}-{at}" for at in range(99))] for number, talk in enumerate(random_talks(301))]
    first = [weighted(talk, 1) for talk in talks[:200]] + [weighted(talk, 2) for talk in talks[50:80]]
    second = [weighted(talk, 3) for talk in talks[150:]]
    # One word of some hundred is another: no exact duplicate.
    second += [weighted([*talk[:-1], talk[-1].replace("-44 ", "-xx ")], 4) for talk in talks[:40]]
    sources = [write_talks(tmp_path / "a.jsonl", first), f"dialogue:{tmp_path}/b.jsonl.gz"]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(talk) + "\n" for talk in second).encode()))
    options = Options(sources, shards=5, valid_fraction=0, row_length=509, clean=Cleaning(duplicates=kind))
    manifest = make(options, tmp_path / "out", 1)
    expected = [[(text, index % 2, 1) for index, text in enumerate(talk)] for talk in talks[:200]]
    expected += [[(text, index % 2, 3) for index, text in enumerate(talk)] for talk in talks[200:]]
    if kind == "exact":
        changed = [[(turn["text"], turn["role"], 4) for turn in talk] for talk in second[-40:]]
        expected += changed
    assert sorted(turns_in(tmp_path / "out")) == sorted(expected)
    assert [source["dropped: duplicate"] for source in manifest.sources] == [30, 50 + (0 if kind == "exact" else 40)]
    assert manifest.sources[0]["examples"] == {"duplicate": [talk[0] for talk in talks[50:53]]}

    make(options, tmp_path / "by two", 2)

    def stopped_after_two(plan, shards):
        local_writer(1)(plan, shards[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(options, tmp_path / "restarted", 1, stopped_after_two)
    assert not (tmp_path / "restarted" / "manifest.json").exists()
    make(options, tmp_path / "restarted", 1)
    assert hash_of(tmp_path / "by two") == hash_of(tmp_path / "restarted") == hash_of(tmp_path / "out")


def truncated_lines(folder):
    whole = gzip.compress("".join(json.dumps({"text": f"{n} " * 99}) + "\n" for n in range(999)).encode())
    (folder / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "b.jsonl.gz").write_bytes(whole)
    return f"jsonl:{folder}/*.jsonl.gz", f"{folder}/a.jsonl.gz"


def broken_member(folder):
    names = [f"openwebtext/urlsf_subset{number:02d}_data.xz" for number in range(3)]
    write_archive(folder / "o.tar.xz", {name: {f"{at}.txt": name.encode() for at in range(5)} for name in names})
    outer = bytearray(lzma.decompress((folder / "o.tar.xz").read_bytes()))
    # The packed data of the second member: behind its header of 512 bytes, in the middle.
    at = outer.index(names[1].encode()) + 512 + 100
    outer[at : at + 8] = bytes(byte ^ 0xFF for byte in outer[at : at + 8])
    (folder / "o.tar.xz").write_bytes(lzma.compress(bytes(outer)))
    return f"openwebtext:{folder}/o.tar.xz", f"{folder}/o.tar.xz/{names[1]}"


@pytest.mark.parametrize(("damaged", "reason"), [(truncated_lines, "damaged file"), (broken_member, "damaged archive")])
def test_damage_is_counted_or_stops_a_strict_build(tmp_path, monkeypatch, capsys, damaged, reason):
    source, path = damaged(tmp_path)
    arguments = ["make_tfrecords.py", "--source", source, "--processes", "1", "--shards", "3", "--row_length", "127"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--strict", "true", "--output", str(tmp_path / "strict")])
    with pytest.raises(SystemExit) as exit_:
        command.run(make_tfrecords.main)
    assert exit_.value.code == 2
    assert f"error: {path}: " in capsys.readouterr().err
    assert not (tmp_path / "strict" / "manifest.json").exists()

    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(tmp_path / "out"), "--json"])
    command.run(make_tfrecords.main)
    printed = capsys.readouterr()
    (counts,) = json.loads(printed.out.splitlines()[-1])["sources"]
    assert counts[f"dropped: {reason}"] == 1
    assert counts["examples"][reason][0].startswith(path)
    assert f"warning: {source}: 1 {reason}" in printed.err
    if damaged is broken_member:
        assert counts["kept"] in range(10, 15)
    else:
        # All of the whole file, and of the other about the half that is left.
        assert 999 + 300 < counts["kept"] < 999 + 700


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mixed_encodings_are_told_with_file_and_line(tmp_path, suffix):
    lines = [json.dumps({"text": f"{number} naïve 🤖"}, ensure_ascii=False).encode() for number in range(901)]
    lines[707] = '{"text": "naïve"}'.encode("latin-1")
    data = b"\n".join(lines)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(UserError, match=rf"a\.jsonl{suffix}:708: byte 0xef is not UTF-8"):
        build(tmp_path / "out", [f"jsonl:{tmp_path}/a.jsonl{suffix}"])
    assert not (tmp_path / "out").exists()


def peak_memory(arguments, **settings):
    """Of a command's processes together, as their resident bytes; with its exit code and what it printed."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        now = 0
        try:
            for each in (root, *root.children(recursive=True)):
                now += each.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, now)
        time.sleep(0.02)
    return peak, process.returncode, process.communicate()[0]


@pytest.mark.slow
@pytest.mark.parametrize(("megabytes", "duplicates"), [(100, "off"), (60, "near")])
def test_a_line_of_100_megabytes(tmp_path, megabytes, duplicates):
    """It is left out and counted; one below the limit of 64 MiB is taken. Memory stays within its bound."""
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        file.write('{"text": "before"}\n' * 3)
        file.write('{"text": "')
        for number in range(megabytes):
            file.write(" ".join(f"{number}-{at:07d}" for at in range(100_000))[: (1 << 20) - 1] + " ")
        file.write('"}\n' + '{"text": "after"}\n' * 2)
    arguments = [sys.executable, str(Path("data_prep") / "make_tfrecords.py"), "--source", f"jsonl:{path}"]
    arguments += ["--processes", "2", "--output", str(tmp_path / "out"), "--shards", "2", "--json"]
    arguments += ["--clean.duplicates", duplicates]
    peak, code, printed = peak_memory(arguments, cwd=ROOT, env=os.environ)
    assert code == 0, printed
    (counts,) = json.loads(printed.splitlines()[-1])["sources"]
    expected = {"off": 5, "near": 2}[duplicates]
    if megabytes == 100:
        assert counts["dropped: line of over 64 MiB"] == 1
        assert counts["examples"]["line of over 64 MiB"] == [str(path)]
        assert counts["kept"] == expected
    else:
        assert counts["kept"] == expected + 1
        assert counts["text_bytes"] > path.stat().st_size - 200
    assert peak < 1.5 * GIB, f"{peak / GIB:.2f} GiB"
