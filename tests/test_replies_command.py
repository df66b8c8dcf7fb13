"""`jaxgpt replies`: tables, files and mistakes, on tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.chat.answering import Answerer
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.jax_reader import JaxReader
from jaxgpt.chat.rerank import Candidates
from jaxgpt.commands.replies import replies
from jaxgpt.data.dialogue import FORMATS, Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.reply_metrics import measure_replies
from jaxgpt.train.models import load_model

TALKS = [["hello there", "hi! how are you?", "fine", "that is a lot"], ["I ate 3 apples", "and more"], ["good bye"]]
CONTEXTS = [TALKS[0][:1], TALKS[0][:3], TALKS[1][:1]]
ANSWERS = [TALKS[0][1], TALKS[0][3], TALKS[1][1]]
A, B = "a" * 56, "b" * 56


@pytest.fixture
def talks(tmp_path: Path) -> str:
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(turns) + "\n" for turns in TALKS))
    return f"dialogue:{file}"


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], dict[str, Any]]:
    """What was printed, and the JSON of the last line."""
    replies([*arguments, "--json"])
    *lines, last = capsys.readouterr().out.splitlines()
    return lines, json.loads(last)


def test_all_decodings_in_one_run(
    tags_run: Any, talks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = write(tmp_path / "given.txt", "hi", "a lot", "more")
    lines, content = ran(
        capsys,
        *("--model", str(tags_run.run), "--data", talks, "--output", str(out)),
        *("--decoding", "greedy", "sample", "beam", "mmi", "--reverse_model", str(tags_run.hf), "--candidates", "3"),
        *("--num_beams", "2", "--max_new_tokens", "5", "--hypotheses", f"given={given}"),
    )
    assert list(content["systems"]) == ["given", "greedy", "sample", "beam", "mmi"]
    assert [line.split(" | ")[0] for line in lines[2:7]] == ["| given", "| greedy", "| sample", "| beam", "| mmi"]
    assert (out / "table.md").read_text().splitlines() == lines[:7]
    assert json.loads((out / "report.json").read_text()) == content
    assert (content["examples"], content["candidates"]) == (3, 3)
    assert content["decoding"]["beam"]["num_beams"] == 2
    assert content["decoding"]["mmi"]["seed"] == 0
    assert content["decoding"]["greedy"]["temperature"] == 0
    # The replies are the answerer's, and the figures theirs.
    model, written = load_model(tags_run.run), FORMATS["tags"]
    contexts = [[Turn(text, n % 2) for n, text in enumerate(texts)] for texts in CONTEXTS]
    reverse = JaxReader(load_model(tags_run.hf), written)
    ways = {
        "greedy": (Decoding(temperature=0, max_new_tokens=5), None),
        "mmi": (Decoding(max_new_tokens=5, seed=0), Candidates(3, reverse)),
    }
    for name, (decoding, candidates) in ways.items():
        said = [" ".join(reply.split()) for reply in Answerer(model, written, decoding, candidates).answer(contexts)]
        assert (out / f"{name}.txt").read_text().splitlines() == said
        expected = measure_replies(said, [[answer] for answer in ANSWERS]).as_json()
        assert content["systems"][name] == json.loads(json.dumps(expected))


def test_what_is_written_is_what_is_measured(
    tags_run: Any, talks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """mteval joins what a hyphen and a line end part, which a file of one reply a line can't show."""
    monkeypatch.setattr(Answerer, "answer", lambda *_: ["an ex-\nample\u2028 of\tit "] * 3)
    command = ("--data", talks, "--output", str(tmp_path / "out"))
    _, made = ran(capsys, "--model", str(tags_run.run), *command)
    assert (tmp_path / "out" / "greedy.txt").read_text() == "an ex- ample of it\n" * 3
    _, read = ran(capsys, "--hypotheses", f"x={tmp_path / 'out' / 'greedy.txt'}", *command)
    assert made["systems"]["greedy"] == read["systems"]["x"]


def test_given_replies_need_no_model(talks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write(tmp_path / "given.txt", *(answer.upper() for answer in ANSWERS))
    out = tmp_path / "out"
    command = ("--data", talks, "--hypotheses", f"given={given}", "--output", str(out))
    _, content = ran(capsys, *command, "--lowercase", "--tokenize", "none")
    assert content["systems"]["given"]["bleu"] == pytest.approx([100] * 4)
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "table.md"]
    told = {"tokenize": "none", "lowercase": True, "hypotheses": [f"given={given}"], "role": 1, "limit": None}
    told |= {"last": False, "format": None, "convos": None, "key_file": None, "batch_size": 32}
    assert {name: content[name] for name in told} == told
    _, content = ran(capsys, *command, "--limit", "2")
    assert content["limit"] == 2
    assert content["systems"]["given"] == json.loads(
        json.dumps(measure_replies([answer.upper() for answer in ANSWERS[:2]], [[ANSWERS[0]], [ANSWERS[1]]]).as_json())
    )
    one, two = write(tmp_path / "one", "hi", "lot"), write(tmp_path / "two", "fine")
    for more, file, number in ((["--last"], one, 2), (["--role", "0"], two, 1)):
        _, content = ran(capsys, "--data", talks, "--hypotheses", f"x={file}", "--output", str(out), *more)
        assert content["examples"] == number


def test_several_references_and_keys(tags_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = write(tmp_path / "refs", f"{B}\t3|one two\t2|three\t1|four", f"{A}\t1|five six")
    columns = [f"{key}\tsub\tid\t1\t2\tSTART EOS hello there EOS how are you?" for key in (A, B)]
    convos = write(tmp_path / "convos", *(f"{column}\t__UNDISCLOSED__" for column in columns))
    out = tmp_path / "out"
    _, content = ran(
        capsys,
        *("--model", str(tags_run.hf), "--data", f"dstc7:{references}", "--convos", convos),
        *("--max_new_tokens", "5", "--output", str(out)),
    )
    assert list(content["systems"]) == ["human", "greedy"]
    assert [row["replies"] for row in content["systems"].values()] == [1, 2]
    said = (out / "greedy.txt").read_text().splitlines()
    assert said[0] == said[1] != ""
    assert (out / "greedy.convos.txt").read_text().splitlines() == [
        f"{columns[1]}\t{said[0]}",
        f"{columns[0]}\t{said[0]}",
    ]
    ours = write(tmp_path / "ours.jsonl", json.dumps({"context": ["a"], "references": ["one two", "three"]}))
    _, content = ran(
        capsys,
        "--data",
        f"references:{ours}",
        "--hypotheses",
        f"x={write(tmp_path / 'x', 'one')}",
        "--output",
        str(out),
    )
    assert list(content["systems"]) == ["human", "x"]
    with pytest.raises(UserError, match=r"has no contexts for the model to answer; add --convos"):
        replies(["--model", str(tags_run.hf), "--data", f"dstc7:{references}", "--output", str(out)])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "there is nothing to measure; give --model M or --hypotheses NAME=FILE"),
        (["--hypotheses", "x"], "--hypotheses 'x': write NAME=FILE"),
        (["--hypotheses", "../x=FILE"], r"--hypotheses '\.\./x=.*': write NAME=FILE"),
        (["--hypotheses", "x=FILE", "x=FILE"], "--hypotheses names x twice"),
        (["--hypotheses", "greedy=FILE"], "--hypotheses greedy=.*: greedy is a row of its own; choose another name"),
        (["--hypotheses", "x=nowhere"], "there is no file 'nowhere'"),
        (["--hypotheses", "x=FILE"], r"given\.txt has 2 replies, but there are 3 examples"),
        (["--hypotheses", "x=FILE", "--decoding", "beam"], "--decoding beam needs --model M"),
        (
            ["--model", "m", "--decoding", "nucleus"],
            "--decoding is 'nucleus'; it must be one of greedy, sample, beam, mmi",
        ),
        (["--model", "m", "--decoding", "beam", "beam"], "--decoding beam beam names one twice"),
        (["--model", "m", "--decoding", "mmi"], "--decoding mmi needs a --reverse_model"),
        (["--model", "m", "--reverse_model", "r"], "--reverse_model is r, but --decoding is greedy"),
        (["--model", "m", "--limit", "0"], "--limit is 0; it must be above 0"),
        (["--model", "m", "--output", "FILE"], r"--output .*given\.txt is a file; name a folder"),
        (["--model", "m", "--num_beams", "3"], "--num_beams is 3, but --decoding is greedy; .* or decode by beam$"),
        (["--model", "m", "--decoding", "sample", "--length_penalty", "2"], r"--length_penalty is 2.0, .* by beam$"),
        (["--model", "m", "--decoding", "sample", "--early_stopping", "true"], "--early_stopping is True, .* by beam$"),
        (["--model", "m", "--candidates", "7"], "--candidates is 7, .* decode by mmi$"),
        (["--model", "m", "--temperature", "0.5"], r"--temperature is 0.5, .* decode by sample or mmi$"),
        (
            ["--model", "m", "--decoding", "greedy", "beam", "--top_p", "0.5"],
            "--top_p is 0.5, but --decoding is greedy beam; leave it out",
        ),
        (["--model", "m", "--top_k", "5"], "--top_k is 5, .* decode by sample or mmi$"),
        (["--model", "m", "--min_p", "0.1"], "--min_p is 0.1, .* decode by sample or mmi$"),
        (["--model", "m", "--seed", "3"], "--seed is 3, .* decode by sample or mmi$"),
        (["--hypotheses", "x=FILE", "--step", "3"], "--step is 3, but --decoding is none; leave it out"),
        (["--hypotheses", "x=FILE", "--batch_size", "-4"], "--batch_size is -4, but --decoding is none"),
        (["--hypotheses", "x=FILE", "--format", "tags"], "--format is tags, but --decoding is none"),
        (["--hypotheses", "x=FILE", "--max_new_tokens", "9"], "--max_new_tokens is 9, but --decoding is none"),
        (["--model", "m", "--decoding", "sample", "--temperature", "0"], "--decoding sample draws by chance, but"),
        (["--model", "m", "--convos", "c"], "--convos and --key_file are of dstc7:FILE, not dialogue:"),
        (["--model", "m", "--role", "2"], "--role is '2'; it must be one of 0, 1"),
        (["--model", "HF", "--max_new_tokens", "61"], "--max_new_tokens 61 leaves no room for a prompt"),
        (["--model", "HF", "--batch_size", "0"], "--batch_size is 0; it must be above 0"),
    ],
)
def test_mistakes_are_named(tags_run: Any, talks: str, tmp_path: Path, more: list[str], message: str) -> None:
    file = write(tmp_path / "given.txt", "a", "b")
    more = [word.replace("FILE", file).replace("HF", str(tags_run.hf)) for word in more]
    with pytest.raises(UserError, match=message):
        replies(["--data", talks, "--output", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_a_reverse_model_without_room_is_named_before_others_decode(
    tags_run: Any, talks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answerer, "answer", lambda *_: pytest.fail("it works already"))
    command = ["--model", str(tags_run.run), "--data", talks, "--output", str(tmp_path / "out")]
    command += ["--decoding", "greedy", "mmi", "--reverse_model", str(tags_run.hf)]
    positions = load_model(tags_run.hf).cfg.n_positions
    with pytest.raises(
        UserError,
        match=rf"--max_new_tokens {positions - 1} and the \d tokens around a reply fill the n_positions {positions} of "
        "--reverse_model",
    ):
        replies([*command, "--max_new_tokens", str(positions - 1)])
    assert not (tmp_path / "out").exists()


def test_data_without_replies(talks: str, tmp_path: Path) -> None:
    (tmp_path / "alone.jsonl").write_text('["only one turn"]\n')
    (tmp_path / "text.txt").write_text("a text\n")
    given = write(tmp_path / "given.txt", "a")
    for data, message in {
        f"dialogue:{tmp_path / 'alone.jsonl'}": "has no reply of role 1 to anything",
        f"text:{tmp_path / 'text.txt'}": "holds texts and no conversations; give dialogue:FILE",
        "chatter:x": "--data chatter:x: write",
        "references:nowhere": "there is no file 'nowhere'",
        "dstc7:x --last": "--role and --last are of conversations, which --data dstc7:x is not",
        "references:x --role 0": "--role and --last are of conversations, which --data references:x is not",
    }.items():
        with pytest.raises(UserError, match=message):
            replies(["--hypotheses", f"x={given}", "--output", str(tmp_path / "out"), "--data", *data.split()])


def test_a_model_that_does_not_say_its_format(tags_run: Any, talks: str, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in tags_run.hf.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "config.json").read_text())
    del content["dialogue_format"]
    (folder / "config.json").write_text(json.dumps(content))
    command = ["--model", str(folder), "--data", talks, "--max_new_tokens", "5", "--output"]
    with pytest.raises(UserError, match=r"plain does not say in which format it was trained \(None\); give one"):
        replies([*command, str(tmp_path / "out")])
    for model, more in ((folder, ["--format", "tags"]), (tags_run.hf, [])):
        replies(["--model", str(model), *command[2:], str(tmp_path / model.name), *more])
    assert (tmp_path / "plain" / "greedy.txt").read_text() == (tmp_path / "hf" / "greedy.txt").read_text()
