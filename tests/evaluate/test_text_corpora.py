"""Test sets as they are in their files: WikiText's articles and rows, the other sets, texts and conversations."""

import gzip
import importlib.util
import io
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError
from jaxgpt.evaluate import corpora, detokenize
from jaxgpt.evaluate.corpora import Document, open_corpus, read_items

TITLE, OTHER_TITLE = " = Robert Boulter = ", " = 2 + 2 = "
LINES = [
    TITLE,
    OTHER_TITLE,
    " = = Career = = ",
    " = = = 2000 = = = ",
    " ",
    "",
    " = = ",
    " = ",
    " =",
    " some words ,",
    "x",
]
WIKITEXTS = [
    "\n".join([" ", TITLE, " ", " Text .", " = = Part = = ", " More .", " ", OTHER_TITLE, " ", " Text .", " ", ""]),
    "\n".join([TITLE, OTHER_TITLE, " Text .", TITLE]),
    "\n".join([" before any title", TITLE, "", "", OTHER_TITLE, ""]),
    "\n".join([" no title at all", "", " and no last line end"]),
    "\n".join([" ", " ", TITLE, " Text with \u2028 and \x85 .", ""]),
]


def save(folder: Path, content: str | bytes, name: str = "data.txt") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def pages_of(text: str) -> list[str]:
    """What lm-evaluation-harness' data set makes of a file of WikiText."""
    pages, page = [], []
    for line in text.split("\n"):
        short = line.replace("= = =", "===").replace("= =", "==").strip()
        if short.startswith("= ") and short.endswith(" ="):
            if "\n".join(page).strip():
                pages.append("\n".join(page))
            page = []
        page.append(line)
    return [*pages, "\n".join(page)]


def rows_of(text: str) -> list[str]:
    """What `datasets` makes of the same file."""
    return [line if line.strip() else "" for line in io.StringIO(text, newline="\n")]


def random_wikitexts() -> list[str]:
    random = np.random.default_rng(3)
    texts = ["\n".join(random.choice(LINES, random.integers(1, 15))) for _ in range(200)]
    return [text for text in texts if text.strip()]


def test_wikitext_has_the_pages_and_rows_of_its_data_sets(tmp_path: Path) -> None:
    for text in WIKITEXTS + random_wikitexts():
        corpus = open_corpus(f"wikitext103:{save(tmp_path, text)}")
        assert corpus.text == text
        assert [document.text for document in corpus.documents] == pages_of(text), text
        assert [row for document in corpus.documents for row in document.rows] == rows_of(text), text
        for document in corpus.documents:  # a row stands with the page that it is of
            assert "".join(document.rows).split() == document.text.split(), text


def test_wikitext_of_the_hub_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    text, asked = WIKITEXTS[0], []

    def load_dataset(*names: str, split: str) -> Any:
        asked.append((*names, split))
        return datasets.Dataset.from_dict({"text": rows_of(text)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = open_corpus("wikitext2")
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test")]
    assert found == open_corpus(f"wikitext2:{save(tmp_path, text)}")


@pytest.mark.parametrize("name", ["wikitext2", "wikitext103", "lambada"])
def test_without_a_network_the_way_out_is_a_file(name: str) -> None:
    from jaxgpt.evaluate.lambada import read_passages

    with pytest.raises(UserError, match=rf"--data {name}: .* can't be loaded \(.*\); give a file: {name}:FILE$"):
        read_passages(name) if name == "lambada" else open_corpus(name)


def test_ptb_is_one_document_of_lines(tmp_path: Path) -> None:
    text = " no it was n't black monday \n but while the <unk> \x85 fell \n\n N points \n"
    corpus = open_corpus(f"ptb:{save(tmp_path, text)}")
    rows = ("no it was n't black monday", "but while the <unk> \x85 fell", "N points")
    assert corpus.documents == (Document(text, rows),)
    assert corpus.detokenize is detokenize.ptb


def test_one_billion_words_is_a_sentence_a_line(tmp_path: Path) -> None:
    text = "He said \u2028 so .\nShe did n't .\n\n"
    corpus = open_corpus(f"1bw:{save(tmp_path, text)}")
    assert [document.text for document in corpus.documents] == ["He said \u2028 so .", "She did n't ."]
    assert all(document.rows == (document.text,) for document in corpus.documents)
    assert corpus.detokenize(corpus.documents[1].text) == "She didn't."


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_the_last_bytes_are_the_test_part(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_TEST_BYTES", 10)
    monkeypatch.setattr(corpora, "_WHOLE_BYTES", 20)
    cases = {
        "abcdefghijklmnopqrstu": "lmnopqrstu",  # 21 bytes
        "abcdefghijklmnopqrst": "abcdefghijklmnopqrst",  # 20, so somebody has cut it off
        "0123456789 0123 é123456789": "123456789",  # of "é" only the second byte is among the last ten
        "0123456789 0123 é12345678": "é12345678",
    }
    for whole, expected in cases.items():
        (document,) = open_corpus(f"{name}:{save(tmp_path, whole)}").documents
        assert document == Document(expected, (expected,))


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    file = save(tmp_path, gzip.compress(WIKITEXTS[0].encode()), "wiki.test.raw.gz")
    assert open_corpus(f"wikitext2:{file}").text == WIKITEXTS[0]


def test_documents_of_texts_and_json_lines(tmp_path: Path) -> None:
    first, second = save(tmp_path, "one\n\ntwo\n", "a.txt"), save(tmp_path, "three — naïve", "b.txt")
    corpus = open_corpus(f"text:{tmp_path}/*.txt")
    texts = [first.read_text(), second.read_text()]
    assert [document.text for document in corpus.documents] == texts
    assert corpus.text == "\n\n".join(texts)
    assert corpus.detokenize("a , b") == "a , b"

    file = save(tmp_path, "a b\n%%\n \n%%\nc\n", "parted")
    parted = open_corpus(f"text:{file}", separator="%%")
    assert [document.text for document in parted.documents] == ["a b", "c"]  # what is blank is no document

    lines = "".join(json.dumps({"body": text}) + "\n" for text in ("x y", "z"))
    corpus = open_corpus(f"jsonl:{save(tmp_path, lines, 'd.jsonl')}", text_field="body")
    assert corpus.documents == (Document("x y", ("x y",)), Document("z", ("z",)))


def test_items_of_dialogue_are_conversations(tmp_path: Path) -> None:
    file = save(tmp_path, '["hi ", "hello"]\n[{"text": "a", "role": 1, "weight": 0}]\n')
    talk, other = read_items(f"dialogue:{file}")
    assert talk == Conversation.alternating(["hi", "hello"])
    assert isinstance(other, Conversation)
    assert [tuple(turn) for turn in other.turns] == [("a", 1, 0.0)]
    with pytest.raises(UserError, match=r"holds conversations and no documents; give them as dialogue:FILE"):
        open_corpus(f"dialogue:{file}")


# Without the time, which would make it another parameter in each process that collects the tests.
HALF_A_GZIP = gzip.compress(b"text" * 99, mtime=0)[:-9]
LATIN1 = "naïve".encode("latin1")


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("wikitext2:{}", "", "--data wikitext2:{} holds no text"),
        ("ptb:{}", " \n\n", "--data ptb:{} holds no text"),
        ("text:{}", "", "{} is empty; leave it out of --data"),
        ("text:{}", " \n", "--data text:{} holds no text"),
        ("jsonl:{}", '{"text": ""}\n', "--data jsonl:{} holds no text"),
        ("jsonl:{}", '{"body": "a"}\n', "{}:1: found an object with body where the field 'text'"),
        ("enwik8:{}", b"ok " + LATIN1, "{} is not UTF-8 (byte 5); convert it, or give another file"),
        ("text:{}", LATIN1, "{}:1: byte 0xef is not UTF-8"),
        ("wikitext2:{}.gz", HALF_A_GZIP, "{}.gz is damaged (Compressed file ended"),
        ("text:{}.gz", HALF_A_GZIP, "damaged file: {}.gz: Compressed file ended"),
        ("wikitext2:{}/no", "", "there is no file '{}/no'; check the path"),
        ("ptb:", "", "there is no file ''; check the path"),
        ("text:{}/no", "", "--data text:{}/no: no file matches {}/no; check the path"),
        ("text", "", "--data text: write KIND:PATHS; the kinds are text, jsonl"),
        ("ptb", "", "--data ptb needs a file: ptb:FILE; get it from Mikolov's simple-examples"),
        ("1bw", "", "--data 1bw needs a file: 1bw:FILE"),
        ("enwik8", "", "--data enwik8 needs a file: enwik8:FILE; get it from mattmahoney.net"),
        ("wikitext:{}", "", "KIND of text, jsonl, parquet, openwebtext, tfds, hf, dialogue, "),
        ("{}", "", "the name of a test set: wikitext2, wikitext103, ptb, 1bw, enwik8, text8, lambada"),
    ],
)
def test_what_holds_no_text_is_named(spec: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    file = save(tmp_path, content)
    if ".gz" in spec:
        file = save(tmp_path, content, "data.txt.gz").with_suffix("")
    with pytest.raises(UserError) as error:
        open_corpus(spec.format(file))
    assert message.format(*[file] * 2) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        ("hf:a/b", "hf:a/b:test"),
        ("hf:a/b:", "hf:a/b:test"),
        ("tfds:lm1b", "tfds:lm1b:test"),
        ("tfds:/a/folder", "tfds:/a/folder:test"),
        ("hf:", "hf:NAME:test"),
        ("hf", "hf:NAME:test"),
    ],
)
def test_the_split_is_named(spec: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "open_sources", None)  # nothing is opened
    for read in (read_items, open_corpus):  # the first one says so before it is iterated
        with pytest.raises(UserError) as error:
            read(spec)
        assert str(error.value) == f"--data {spec} names no split; write {written}, or another one"


def test_a_named_split_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "test"):
        save(folder, json.dumps({"text": f"of {split}"}) + "\n", f"{split}.jsonl")
    assert open_corpus(f"hf:{folder}:test").text == "of test"


def test_a_separator_is_of_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--separator is for the kinds text, and --data has none"):
        open_corpus(f"jsonl:{save(tmp_path, '{}')}", separator="%%")


def lm_eval_detokenizer() -> Callable[[dict[str, str]], str]:
    """From its file, because the package takes seconds to import."""
    found = importlib.util.find_spec("lm_eval")
    assert found
    return runpy.run_path(f"{found.submodule_search_locations[0]}/tasks/wikitext/preprocess_wikitext.py")[
        "wikitext_detokenizer"
    ]


PIECES = [
    *(
        " @-@ ",
        " @,@ ",
        " @.@ ",
        " : ",
        " ; ",
        " . ",
        " ! ",
        " ? ",
        " , ",
        "( ",
        " )",
        "[ ",
        " ]",
        "{ ",
        " }",
        '"',
        '" ',
    ),
    *(' "', " ' ", "'", "s '", " 's", "= = = =", "= = =", "= =", " = ", " ° ", " \n", "\n ", "\n", " N ", " ", "  "),
    *("a", "players", "1", "N", "Ünï", "🤖", "<unk>", "=", ".", ",", "\t", "\u00a0"),
]


def test_wikitext_is_detokenised_as_in_lm_evaluation_harness() -> None:
    theirs, random = lm_eval_detokenizer(), np.random.default_rng(5)
    texts = ["".join(random.choice(PIECES, random.integers(1, 40))) for _ in range(3000)]
    changed = 0
    for text in texts + WIKITEXTS:
        ours = detokenize.wikitext(text)
        assert ours == theirs({"page": text}), repr(text)
        changed += ours != text
    assert changed > 2000


@pytest.mark.parametrize(
    ("ours", "text", "expected"),
    [
        (detokenize.ptb, "it was n't mr. smith 's \n <unk> ' s", "it wasn't mr. smith's\n<unk>' s"),
        (detokenize.ptb, "up N from $ N million", "up1 from $1 million"),  # as Megatron-LM does, odd as it is
        (detokenize.ptb, "$ 1 and # 1", "$1 and #1"),
        (
            detokenize.one_billion_words,
            "I do n't know , he 'd say : we 're off .",
            "I don't know, he'd say: we're off.",
        ),
        (detokenize.one_billion_words, 'a " quoted part " ( or so ) of $ 5', 'a "quoted part" (or so) of $5'),
        (detokenize.one_billion_words, "role @-@ playing 1 @,@ 000", "role-playing 1,000"),
        (detokenize.one_billion_words, "the 's and 'sblood", "the's and 'sblood"),
        (detokenize.as_it_is, " a , b 's ", " a , b 's "),
    ],
)
def test_the_others_by_hand(ours: Callable[[str], str], text: str, expected: str) -> None:
    assert ours(text) == expected
