"""MultiWOZ, CamRest and PersuasionForGood: the published files' counts and text, and small files of every form."""

import csv
import gzip
import json
import random
import zipfile
import zlib
from pathlib import Path

import pytest

from data_prep.sources import stream
from data_prep.sources.camrest import CamRest
from data_prep.sources.chunk import Dropped
from data_prep.sources.files import find_files
from data_prep.sources.multiwoz import MultiWOZ
from data_prep.sources.persuasion import Persuasion
from jaxgpt.errors import UserError

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
TALKS = [["hi", "hello", "a hotel [cheap]?", "näin"], ["x", "y"], ["bye", "bye bye"]]


def real(pattern):
    if not list(DATA.glob(pattern)):
        pytest.skip(f"needs the published files {DATA / pattern}")
    return DATA / pattern


def read(kind, pattern, chunk_bytes=20_000, begin=0):
    """(chunks, items); the chunks' places are checked."""
    source = kind("x:y", find_files("x:y", str(pattern)))
    chunks = list(source.chunks(begin, chunk_bytes))
    positions = [chunk.position for chunk in chunks]
    assert positions == sorted(positions)
    assert all(0 <= position < source.size for position in positions)
    items = [
        item for chunk in chunks for item in ([chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk))
    ]
    return chunks, items


def talks(kind, pattern, **options):
    """The conversations' texts; that the user, or whoever begins, is role 0 and speakers alternate is checked."""
    _, items = read(kind, pattern, **options)
    for item in items:
        assert [turn.role for turn in item.turns] == [index % 2 for index in range(len(item.turns))]
        assert all(turn.weight == 1 for turn in item.turns)
    return [[turn.text for turn in item.turns] for item in items]


def as_log(texts):
    return {"goal": {"hotel": {}}, "log": [{"text": f"{text}\n", "metadata": {"n": 1.5}} for text in texts]}


def as_turns(texts):
    pairs = zip(texts, ["USER", "SYSTEM"] * 9, strict=False)
    return {"services": [], "turns": [{"speaker": speaker, "utterance": text} for text, speaker in pairs]}


def as_pairs(texts):
    return [{"user": user, "real_response": said} for user, said in zip(texts[::2], texts[1::2], strict=True)]


def as_dial(texts):
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return {"dial": [{"turn": 0, "usr": {"transcript": user}, "sys": {"sent": system}} for user, system in pairs]}


def as_tagged(texts):
    return [f"{'AB'[index % 2]}:{text}" for index, text in enumerate(texts)]


def as_csv(all_texts):
    rows = [
        f"{n},{text},{n // 2},{n % 2},id{talk}" for talk, texts in enumerate(all_texts) for n, text in enumerate(texts)
    ]
    return "\n".join([",Unit,Turn,B4,B2", *rows]) + "\n"


FORMS = {
    "MultiWOZ 2.1": (MultiWOZ, json.dumps({f"PMUL{n}.json": as_log(texts) for n, texts in enumerate(TALKS)}, indent=1)),
    "MultiWOZ 2.2": (MultiWOZ, json.dumps([as_turns(texts) for texts in TALKS], indent=1)),
    "MultiWOZ text": (MultiWOZ, "".join("\n".join(texts) + "\n\n\n" for texts in TALKS)),
    "MultiWOZ text with slots": (MultiWOZ, "[cheap] hotel?\n\nwhere\n\n\n\n\nx\ny"),
    "CamRest676": (CamRest, json.dumps([as_dial(texts) for texts in TALKS])),
    "CamRest676 of ARDM": (CamRest, json.dumps([as_pairs(texts) for texts in TALKS], ensure_ascii=False)),
    "Persuasion CSV": (Persuasion, as_csv(TALKS)),
    "Persuasion JSON": (Persuasion, json.dumps([as_tagged(texts) for texts in TALKS])),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrap", ["plain", "mark", "windows", "gz"])
def test_every_form_gives_the_same_talks(tmp_path, form, wrap):
    kind, content = FORMS[form]
    data = content.replace("\n", "\r\n").encode() if wrap == "windows" else content.encode()
    path = tmp_path / ("a.gz" if wrap == "gz" else "a")
    path.write_bytes({"gz": gzip.compress, "mark": b"\xef\xbb\xbf".__add__}.get(wrap, bytes)(data))
    expected = [["[cheap] hotel?", "where"], ["x", "y"]] if form == "MultiWOZ text with slots" else TALKS
    assert talks(kind, path) == expected
    chunks, _ = read(kind, path, chunk_bytes=1)
    assert [len(chunk.data) for chunk in chunks] == [1] * len(expected)


def test_the_2_1_form_in_a_zip_and_what_else_a_zip_may_hold(tmp_path):
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", "hello")
        archive.writestr("val.json", FORMS["MultiWOZ 2.1"][1])
    assert talks(MultiWOZ, tmp_path / "one.zip") == TALKS
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("b.json", "{}")
    with pytest.raises(UserError, match=r"two.zip holds 2 .json files \(a.json, b.json\) where one is expected"):
        read(MultiWOZ, tmp_path / "two.zip")


@pytest.mark.parametrize("form", ["MultiWOZ 2.1", "MultiWOZ 2.2", "CamRest676", "Persuasion JSON"])
def test_json_that_ends_too_soon_gives_the_talks_before(tmp_path, form):
    kind, content = FORMS[form]
    (tmp_path / "cut").write_text(content[:-20])
    _, items = read(kind, tmp_path / "cut")
    *whole, damage = items
    assert [[turn.text for turn in item.turns] for item in whole] == TALKS[: len(whole)]
    assert len(whole) == 2
    assert damage.damaged
    assert "cut" in damage.example


def test_a_truncated_gz_gives_what_can_be_decompressed(tmp_path):
    rng = random.Random(0)
    content = as_csv([[f"{text} {rng.random()}" for text in talk] for talk in TALKS * 400])
    packed = gzip.compress(content.encode())[:-200]
    readable = zlib.decompressobj(31).decompress(packed).decode()
    (tmp_path / "a.csv.gz").write_bytes(packed)
    _, items = read(Persuasion, tmp_path / "a.csv.gz")
    *whole, damage = items
    assert damage.damaged
    ids = [row.rpartition(",")[2] for row in readable.splitlines()[1:-1]]
    assert len(whole) == len(set(ids)) - 1 > 1100  # the last one may have lost turns


def test_a_truncated_zip_is_counted_as_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("val.json", FORMS["MultiWOZ 2.1"][1])
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    _, items = read(MultiWOZ, tmp_path / "a.zip")
    assert [item.damaged for item in items] == [True]


BAD = [
    (MultiWOZ, '{"a": {"log": "x"}}', "dialogue a: found"),
    (MultiWOZ, '{"a": ["hotel", "train"]}', "dialogue a: found"),
    (MultiWOZ, '[{"turns": [{"speaker": "BOB", "utterance": "x"}]}]', "dialogue 1: found"),
    (MultiWOZ, '{"a": {"log": []}, oops}', "not JSON between byte 0 and byte"),
    (MultiWOZ, b"hello\ncaf\xe9\n", ":2: byte 0xe9 is not UTF-8"),
    (MultiWOZ, b'[{"turns": "\xe9"}]', "not JSON"),
    (CamRest, '{"dial": []}', "where an array of dialogues belongs"),
    (CamRest, '[{"dial": []}, [{"user": "x"}]]', "dialogue 2: found"),
    (CamRest, '["x"]', "dialogue 1: found"),
    (CamRest, '[["user"]]', "dialogue 1: found"),
    (Persuasion, '[["A:x", "C:y"]]', 'dialogue 1: found "C:y"'),
    (Persuasion, "[3]", "dialogue 1: found 3"),
    (Persuasion, ",Unit,Turn,B4\n", ":1: found the columns , Unit, Turn, B4; B2 is missing"),
    (Persuasion, ",Unit,Turn,B4,B2\n0,a,0,0,x\n1,b,0,2,x\n", ":3: found"),
    (Persuasion, ",Unit,Turn,B4,B2\n0,a,0,0,x\n1,b\n", ":3: found"),
    (Persuasion, ",Unit,Turn,B4,B2\n0,a,0,0,x\n1,\"b\"c,0,1,x\n", ":3: not CSV"),
    (Persuasion, b",Unit,Turn,B4,B2\n0,caf\xe9,0,0,x\n", ":2: byte 0xe9 is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "content", "message"), BAD)
def test_what_the_forms_do_not_allow_is_told_with_its_place(tmp_path, kind, content, message):
    path = tmp_path / "bad"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read(kind, path)
    assert str(error.value).startswith(f"{path}:")
    assert message in str(error.value)


@pytest.mark.parametrize("content", ['{"a": [%s', '[{"turns": [%s', "hello%s"])
def test_a_file_of_another_kind_does_not_fill_the_memory(tmp_path, monkeypatch, content):
    monkeypatch.setattr(stream, "_MAX_BYTES", 1 << 20)
    (tmp_path / "big").write_text(content % ("1, " * (1 << 20)))
    with pytest.raises(UserError, match="over 1 MiB from byte 0 on are no conversation"):
        read(MultiWOZ, tmp_path / "big")


def test_multiwoz_2_2_as_text_is_complete():
    found = talks(MultiWOZ, real("multiwoz22_text/*.txt"), chunk_bytes=200_000)
    assert (len(found), sum(map(len, found))) == (10_437, 143_044)
    lines = [line.strip() for path in sorted(DATA.glob("multiwoz22_text/*.txt")) for line in path.open(newline="\n")]
    assert [text for talk in found for text in talk] == [line for line in lines if line]


def test_multiwoz_2_1_of_convlab_is_complete():
    for name, count in (("val", 999), ("test", 1000)):
        path = real(f"multiwoz21/convlab2_{name}.json.zip")
        with zipfile.ZipFile(path) as archive:
            dialogues = json.loads(archive.read(f"{name}.json"))
        found = talks(MultiWOZ, path)
        assert len(found) == count
        assert found == [[turn["text"].strip() for turn in dialogue["log"]] for dialogue in dialogues.values()]


def test_camrest_is_complete_in_both_forms():
    published = talks(CamRest, real("camrest/CamRest676.json"))
    assert (len(published), sum(map(len, published))) == (676, 2 * 2744)
    found = {}
    for name, count in (("train", 408), ("val", 136), ("test", 132)):
        path = real(f"camrest/ardm_{name}_data.json")
        talk = talks(CamRest, path)
        assert len(talk) == count
        found |= {pairs[0]["dial_id"]: texts for pairs, texts in zip(json.loads(path.read_text()), talk, strict=True)}
    assert [found[number] for number in range(676)] == published


def test_persuasion_is_complete_in_both_forms():
    path = real("persuasion/full_dialog.csv")
    _, items = read(Persuasion, path)
    assert (len(items), sum(len(item.turns) for item in items)) == (1017, 20_932)
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["Unit"].strip(), int(row["B4"])) for row in csv.DictReader(file)]
    assert [(turn.text, turn.role) for item in items for turn in item.turns] == rows
    split = talks(Persuasion, real("persuasion/split_train.json"))
    assert (len(split), len(talks(Persuasion, real("persuasion/split_valid.json")))) == (891, 99)
    assert sum(talk in [[turn.text for turn in item.turns] for item in items] for talk in split[:5]) == 5


@pytest.mark.parametrize("pattern", ["multiwoz21/*val*.zip", "multiwoz22_text/dev*.txt"])
def test_chunks_do_not_depend_on_where_reading_begins(pattern):
    whole, _ = read(MultiWOZ, real(pattern), chunk_bytes=100_000)
    for chunk in whole[:: len(whole) // 3]:
        later, _ = read(MultiWOZ, real(pattern), chunk_bytes=100_000, begin=chunk.position)
        assert [c for c in later if c.position >= chunk.position] == [c for c in whole if c.position >= chunk.position]
