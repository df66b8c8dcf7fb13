"""Input, disks and processes that fail: exit code 2 and one sentence, nothing half-built that counts as whole."""

import json
import resource
import signal
import subprocess

import pytest
from build_command import assert_user_mistake, run
from built_pages import build
from small_corpora import GOOD, large_talks

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.manifest import load_manifest
from jaxgpt.errors import UserError

# What the third line is -> what the message says of it.
BAD_LINES = {
    "not JSON": (b'["a", "b"\n', "not JSON"),
    "no JSON at all": (b"hello\n", "not JSON"),
    "number inside": (b'["a", 3]\n', "found 3 where a turn with text belongs"),
    "list inside": (b'["a", ["b"]]\n', 'found ["b"] where a turn with text belongs'),
    "null inside": (b'[null, "b"]\n', "found null where a turn with text belongs"),
    "object": (b'{"text": "a"}\n', 'found {"text": "a"} where a list of turns belongs'),
    "string": (b'"a"\n', 'found "a" where a list of turns belongs'),
    "not UTF-8": (b'["caf\xe9", "b"]\n', "byte 0xe9 is not UTF-8"),
    "half a surrogate pair": (b'["a \\ud83e b", "c"]\n', "half a surrogate pair"),
    "nested too deep": (b"[" * 100_000 + b"\n", "not JSON"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_leaves_nothing_in_the_way(tmp_path, name):
    """The same command works once the line is corrected."""
    line, message = BAD_LINES[name]
    path = tmp_path / "talks.jsonl"
    path.write_bytes(GOOD.encode() * 2 + line + GOOD.encode())
    with pytest.raises(UserError) as error:
        build(tmp_path / "out", [f"dialogue:{path}"])
    assert f"{path}:3: " in str(error.value)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()
    path.write_text(GOOD * 3)
    assert build(tmp_path / "out", [f"dialogue:{path}"]).splits["train"].documents == 3


def test_a_line_far_into_a_file_of_several_blocks_is_named(tmp_path):
    path = tmp_path / "talks.jsonl"
    lines = [GOOD] * 40_009
    lines[30_011] = "nonsense\n"
    path.write_text("".join(lines))
    with pytest.raises(UserError) as error:
        build(tmp_path / "out", [f"dialogue:{path}"])
    assert f"{path}:30012: not JSON" in str(error.value)


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"first\nsecond\ncaf\xe9\n")
    with pytest.raises(UserError) as error:
        build(tmp_path / "out", [f"text:{path}"])
    assert f"{path}:3: byte 0xe9 is not UTF-8" in str(error.value)


def test_sources_that_cannot_be_built_are_named_before_anything_is_written(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "talks.jsonl").write_text(GOOD)
    (tmp_path / "book.txt").write_text("text")
    for source, parts in (
        ([f"dialogue:{tmp_path}/empty.jsonl"], (f"{tmp_path}/empty.jsonl is empty",)),
        ([f"text:{tmp_path}/*.txt"], (f"{tmp_path}/empty.txt is empty",)),
        ([f"talk:{tmp_path}/talks.jsonl"], (f"talk:{tmp_path}/talks.jsonl", "KIND:PATH", "dialogue", "text")),
        ([f"{tmp_path}/talks.jsonl"], ("KIND:PATH",)),
        ([f"dialogue:{tmp_path}/none.jsonl"], (f"no file matches {tmp_path}/none.jsonl",)),
        ([f"dialogue:{tmp_path}"], ("no file matches",)),
    ):
        with pytest.raises(UserError) as error:
            build(tmp_path / "out", source)
        for part in parts:
            assert part in str(error.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("dialogue", '["alone"]\n["", "alone too"]\n\n', "no conversation with two turns or more among 2"),
        ("text", " \n\n", "no document with text among 1"),
    ],
)
def test_nothing_to_learn_from(tmp_path, kind, content, message):
    (tmp_path / "input").write_text(content)
    with pytest.raises(UserError, match=message):
        build(tmp_path / "out", [f"{kind}:{tmp_path}/input"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_length": 7}, "--row_length is 7; it must be 8 or more"),
        ({"shards": 0}, "--shards is 0; it must be 1 or more"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
        ({"seed": 1 << 64}, "--seed is 18446744073709551616"),
        ({"valid_fraction": 1.0}, "--valid_fraction is 1.0"),
        ({"test_fraction": -0.1}, "--test_fraction is -0.1"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError) as error:
        Options(["text:book.txt"], **options)
    assert message in str(error.value)


@pytest.mark.slow
def test_command_line_ends_with_one_sentence_and_exit_code_2(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text(GOOD * 2 + '["a", 3]\n')
    assert_user_mistake(run(f"dialogue:{path}", tmp_path / "out"), f"{path}:3: found 3")
    done = run(f"dialogue:{tmp_path}/none.jsonl", tmp_path / "out")
    assert_user_mistake(done, f"no file matches {tmp_path}/none.jsonl")
    path.write_text(GOOD)
    assert_user_mistake(run(f"dialogue:{path}", path / "out"), str(path / "out"))
    assert path.read_text() == GOOD


SHARD_BYTES = 8_000_000  # at least, of the one shard of `large_talks`; the tokenizer's file has about 3.5 MB
ONE_SHARD = ("--shards", "1", "--valid_fraction", "0")


def assert_nothing_counts_as_whole(output):
    assert not (output / "manifest.json").exists()
    for path in output.glob("pages-*"):
        assert path.stat().st_size > SHARD_BYTES, f"{path} is incomplete under its final name"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 6_000_000], ids=["tokenizer", "shard"])
def test_a_file_that_the_disk_does_not_take(tmp_path, limit):
    """A limit on the size of files stands for a full disk; without it the same command finishes the build."""
    source, output = large_talks(tmp_path / "talks.jsonl"), tmp_path / "out"

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert_user_mistake(run(source, output, *ONE_SHARD, preexec_fn=limited), "File too large")
    assert_nothing_counts_as_whole(output)
    done = run(source, output, *ONE_SHARD)
    assert done.returncode == 0, done.stderr
    (shard,) = load_manifest(output).splits["train"].shards
    assert (shard.records, shard.bytes > SHARD_BYTES) == (907, True)


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [1, 6], ids=["tokenizer", "shard"])
def test_a_full_disk(tmp_path, megabytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this system has no mount")
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted: {mounted.stderr.strip()}")
    try:
        done = run(large_talks(tmp_path / "talks.jsonl"), disk / "out", *ONE_SHARD)
        assert_user_mistake(done, "No space left on device")
        assert_nothing_counts_as_whole(disk / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--row_lenght", "64"], "no option row_lenght; did you mean row_length?"),
        (["--shards", "many"], '"shards"'),
        (["--format", "html"], "--format is 'html'; it must be one of eos, tags, sep"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, options, message):
    source = tmp_path / "talks.jsonl"
    source.write_text(GOOD)
    assert_user_mistake(run(f"dialogue:{source}", tmp_path / "pages", *options), message)
    assert not (tmp_path / "pages").exists()


def test_a_turns_end_within_a_turn_is_counted(tmp_path):
    source = tmp_path / "talks.jsonl"
    source.write_text(json.dumps(["a\n\n\nb", "c"]) + "\n")
    manifest = make(Options([f"dialogue:{source}"], format="tags", shards=1, row_length=61), tmp_path / "pages", 1)
    assert manifest.sources[0]["turns_with_newlines_shortened"] == 1
