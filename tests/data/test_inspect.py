"""`jaxgpt inspect`: the table, the rows in plain text and in colour, verification and its exit codes."""

import io
import json
import re

import pytest
from small_pages import make_pages

from jaxgpt import cli
from jaxgpt.data import inspect as inspecting


@pytest.fixture
def stream(tmp_path):
    return tmp_path, make_pages(tmp_path, "stream")


@pytest.fixture
def dialogue(tmp_path):
    return tmp_path, make_pages(tmp_path, "dialogue")


@pytest.fixture
def jaxgpt(monkeypatch, capsys):
    """Runs `jaxgpt inspect` in this process: (exit code, lines of stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["jaxgpt", "inspect", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def test_table(dialogue):
    lines = list(inspecting.table(dialogue[1]))
    facts = dict(line.split(None, 1) for line in lines[: lines.index("")] if "  " in line)
    assert (facts["kind"], facts["tokenizer"], facts["format"]) == ("dialogue", "bytes", "eos")
    assert "vocab size   257" in lines
    assert "row length   31" in lines
    header = next(line for line in lines if line.startswith("split")).split()
    rows = {
        line.split()[0]: dict(zip(header, line.split(), strict=True))
        for line in lines
        if line.startswith(("train", "val"))
    }
    # 16 + 8 + 16 + 8 tokens in three rows of 31; text_bytes was written as four times the targets
    assert rows["train"]["tokens"] == "48"
    assert rows["train"]["fill"] == f"{48 / 93:.1%}"
    assert (rows["train"]["documents"], rows["train"]["rows"], rows["train"]["bytes/token"]) == ("4", "3", "4.0")
    assert (rows["valid"]["tokens"], rows["valid"]["shards"]) == ("16", "1")
    dropped = lines.index("             1,003  dropped: too short")
    assert [line.strip() for line in lines[dropped + 1 : dropped + 3]] == ["one word", "\\x1b[31mred"]
    assert "             1,007  read" in lines


def test_rows_in_plain_text(dialogue):
    folder, manifest = dialogue
    lines = list(inspecting.rows(manifest, folder, "train", None, 2, colour=False))
    assert lines == [
        "",
        "pages-train.tfrecord-00000-of-00002 row 0: 24 of 31 tokens",
        "  1 [role 0, weight 0] H",
        "  1 [role 0, weight 1] i there<|endoftext|>",
        "  1 [role 1, weight 1] Hello!<|endoftext|>",
        "  2 [role 0, weight 0] How?<|endoftext|>",
        "  2 [role 1, weight 0.5] So<|endoftext|>",
        "",
        "pages-train.tfrecord-00000-of-00002 row 1: 16 of 31 tokens",
        "  1 [role 1, weight 0] W",
        "  1 [role 1, weight 1] ho are you?<|endoftext|>",
        "  1 [role 0, weight 1] Me<|endoftext|>",
    ]
    more = list(inspecting.rows(manifest, folder, "train", None, 7, colour=False))
    assert more[: len(lines)] == lines
    assert [line for line in more if " row " in line][2:] == [
        "pages-train.tfrecord-00001-of-00002 row 0: 8 of 31 tokens"
    ]


def test_rows_in_colour(dialogue):
    folder, manifest = dialogue
    _, _, first, second = inspecting.rows(manifest, folder, "train", None, 1, colour=True)
    cyan, yellow, off = "\x1b[36m", "\x1b[33m", "\x1b[0m"
    assert first == f"  1 \x1b[2;36mH{off}{cyan}i there<|endoftext|>{off}{yellow}Hello!<|endoftext|>{off}"
    assert second == f"  2 \x1b[2;36mHow?<|endoftext|>{off}\x1b[7m 0.5 {off}{yellow}So<|endoftext|>{off}"


def test_rows_of_a_stream(stream):
    folder, manifest = stream
    lines = list(inspecting.rows(manifest, folder, "train", None, 3, colour=False))
    assert lines == [
        "",
        "pages-train.tfrecord-00000-of-00002 row 0: 31 of 31 tokens",
        "  1 [role 0, weight 0] <|endoftext|>",
        "  1 [role 0, weight 1] Hello world, how are you today",
        "",
        "pages-train.tfrecord-00000-of-00002 row 1: 7 of 31 tokens",
        "  1 [role 0, weight 1] ?<|endoftext|>Fine<|endoftext|>",
        "",
        "pages-train.tfrecord-00001-of-00002 row 0: 14 of 31 tokens",
        "  1 [role 0, weight 0] <|endoftext|>",
        "  1 [role 0, weight 1] Second shard<|endoftext|>",
    ]


def test_colour_only_in_a_terminal_that_wants_it(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert not inspecting.has_colour(terminal)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert inspecting.has_colour(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not inspecting.has_colour(terminal)


def test_text_cannot_command_the_terminal():
    assert inspecting.plain("a\x1b[2Jb\x07\u202e\x9b\r\n\tä") == "a\\x1b[2Jb\\x07\\u202e\\x9b\\r\n\tä"


def test_command(jaxgpt, dialogue):
    folder, manifest = dialogue
    code, lines, _ = jaxgpt(folder, "--split", "valid", "--rows", "1", "--verify", "--json")
    assert code == 0
    assert "\x1b" not in "".join(lines)
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.tfrecord*"))
    assert any(re.fullmatch(rf"verified 4 rows, {n_bytes:,} bytes at [\d,]+ MB/s", line) for line in lines)
    assert [line for line in lines if " row " in line] == ["pages-valid.tfrecord-00000-of-00001 row 0: 16 of 31 tokens"]
    report = json.loads(lines[-1])
    assert report["splits"]["train"] == {
        "shards": 2,
        "documents": 4,
        "rows": 3,
        "tokens": 48,
        "targets": manifest.splits["train"].targets,
        "fill": round(48 / 93, 4),
        "bytes_per_token": 4.0,
    }
    assert (report["path"], report["verified"]["rows"], report["verified"]["bytes"]) == (str(folder), 4, n_bytes)
    assert report["sources"] == manifest.sources


def test_command_on_one_shard(jaxgpt, stream):
    folder, manifest = stream
    shard = folder / manifest.splits["valid"].shards[0].file
    code, lines, _ = jaxgpt(shard, "--verify")
    assert code == 0
    assert [line for line in lines if " row " in line] == [f"{shard.name} row 0: 17 of 31 tokens"]
    assert any(line.startswith("verified 1 rows") for line in lines)
    code, _, err = jaxgpt(shard, "--split", "train")
    assert (code, "is a shard of the split valid, not of --split train" in err) == (2, True)


def test_exit_code_1_for_damage_and_2_for_mistakes(jaxgpt, stream):
    folder, manifest = stream
    shard = folder / manifest.splits["train"].shards[0].file
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    code, _, err = jaxgpt(folder, "--verify", "--rows", "0")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {shard}: record 1 is damaged: stored CRC ")
    assert jaxgpt(folder, "--rows", "0")[0] == 0
    for arguments, part in (
        ((folder / "nowhere",), "does not exist"),
        ((folder / "tokenizer",), "manifest.json is missing"),
        ((folder / "manifest.json",), "names no shard manifest.json"),
        ((folder, "--split", "test"), "has no split 'test'; it has train, valid"),
        ((folder, "--rows", "-1"), "--rows is -1"),
    ):
        code, _, err = jaxgpt(*arguments)
        assert (code, part in err) == (2, True), err
