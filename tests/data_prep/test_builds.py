"""Cleaning, duplicates, damage and large lines through a whole build."""

import gzip
import json
import lzma
import subprocess
import sys
import time

import psutil
import pytest
from build_command import ROOT, command
from built_pages import alternating, build, counts_of, documents_in, hash_of, turns_in
from small_corpora import random_talks, write_talks
from sources.archives import write_archive

from data_prep import make_tfrecords
from data_prep.clean import Cleaning
from data_prep.local import local_writer
from data_prep.make import make
from data_prep.options import Options
from jaxgpt.command import run as run_command
from jaxgpt.errors import UserError

GIB = 1 << 30


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
        run_command(make_tfrecords.main)
    assert exit_.value.code == 2
    assert f"error: {path}: " in capsys.readouterr().err
    assert not (tmp_path / "strict" / "manifest.json").exists()

    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(tmp_path / "out"), "--json"])
    run_command(make_tfrecords.main)
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


def peak_memory(arguments):
    """Of a command's processes together, as their resident bytes; with its exit code and what it printed."""
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
    path, words = tmp_path / "big.jsonl", " ".join(f"x-{at:07d}" for at in range(100_000))
    with path.open("w") as file:
        file.write('{"text": "before"}\n' * 3)
        file.write('{"text": "')
        for number in range(megabytes):
            file.write(words.replace("x", f"{number:02d}")[: (1 << 20) - 1] + " ")
        file.write('"}\n' + '{"text": "after"}\n' * 2)
    options = ["--shards", "2", "--json", "--clean.duplicates", duplicates]
    peak, code, printed = peak_memory(command(f"jsonl:{path}", tmp_path / "out", *options))
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
