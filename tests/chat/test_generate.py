"""Text from prompts: batches against single prompts, stop texts, streams, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bots import make_folder
from transformers import GPT2LMHeadModel

from jaxgpt import cli
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.generate import Generator
from jaxgpt.chat.streaming import settled
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.train.models import Model, load_model

PROMPTS = ["hello", "A:hello there\n\n\nB:hi! how are you?", "", "fine, I ate 3 apples"]
GREEDY = Decoding(temperature=0, max_new_tokens=11)


@pytest.fixture(scope="module")
def model(tags_run) -> Model:
    return load_model(tags_run.run)


def _transformers(folder: Path, model: Model, prompt: str, **settings) -> str:
    stock = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    eos = model.tokenizer.eos_token_id
    ids = torch.tensor([model.tokenizer.encode(prompt) or [eos]])
    out = stock.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=11,
        eos_token_id=eos,
        pad_token_id=eos,
        **settings,
    )
    return model.tokenizer.decode([id_ for id_ in out[0, ids.shape[1] :].tolist() if id_ != eos])


def test_a_batch_of_unequal_prompts_is_what_transformers_generates(model: Model, tags_run) -> None:
    done = list(Generator(model, GREEDY).complete(PROMPTS, batch_size=3))
    assert [one.prompt for one in done] == PROMPTS
    assert [one.text for one in done] == [_transformers(tags_run.hf, model, prompt) for prompt in PROMPTS]
    assert all(0 < one.tokens <= 11 for one in done)


def test_beams_are_those_of_transformers(model: Model, tags_run) -> None:
    decoding = Decoding(num_beams=3, length_penalty=0.7, max_new_tokens=11)
    done = list(Generator(model, decoding).complete(PROMPTS[:2]))
    expected = [_transformers(tags_run.hf, model, prompt, num_beams=3, length_penalty=0.7) for prompt in PROMPTS[:2]]
    assert [one.text for one in done] == expected


@pytest.mark.slow
def test_beams_that_stop_early_are_those_of_transformers(tmp_path: Path) -> None:
    folder, prompts = make_folder(tmp_path, "eos"), ["hello there", "how are you?"]
    stock = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():  # end-of-text becomes a little likelier than a token that this model likes
        stock.transformer.wte.weight[0] = 1.01 * stock.transformer.wte.weight[2]
    stock.save_pretrained(folder)
    model, texts = load_model(folder), {}
    for early in (False, True):
        beams = {"num_beams": 3, "length_penalty": 2.0, "early_stopping": early}
        texts[early] = [one.text for one in Generator(model, Decoding(**beams, max_new_tokens=11)).complete(prompts)]
        assert texts[early] == [_transformers(folder, model, prompt, **beams) for prompt in prompts]
    assert all(len(stopped) < len(whole) for stopped, whole in zip(texts[True], texts[False], strict=True))


def test_only_what_stays_is_settled() -> None:
    tokenizer, random = load_tokenizer("gpt2"), np.random.default_rng(0)
    text = tokenizer.encode("naïve 🤖 — 漢字 é")
    for ids in (text, *random.integers(0, 256, (23, 31)).tolist()):  # the first 256 tokens are the bytes
        whole = tokenizer.decode(ids)
        assert all(whole.startswith(settled(tokenizer.decode(ids[:n]))) for n in range(len(ids) + 1))
    assert settled(tokenizer.decode(tokenizer.encode(" 🤖")[:-1])) == " "


def test_a_seed_and_a_prompts_number_decide_its_text(model: Model) -> None:
    drawn = Decoding(seed=5, max_new_tokens=19)
    alone = [one.text for one in Generator(model, drawn).complete(PROMPTS, batch_size=1)]
    assert [one.text for one in Generator(model, drawn).complete(PROMPTS, batch_size=4)] == alone
    other = Decoding(seed=6, max_new_tokens=19)
    assert [one.text for one in Generator(model, other).complete(PROMPTS)] != alone


def test_a_text_ends_before_the_first_stop_and_no_piece_of_it_leaves(model: Model) -> None:
    whole = next(Generator(model, GREEDY).complete(["hello"]))
    assert not whole.ended
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    cut = whole.text[: whole.text.index(stop)]
    generator = Generator(model, GREEDY, ["never said", stop])
    ended = next(generator.complete(["hello"]))
    assert (ended.text, ended.ended) == (cut, True)
    assert "".join(generator.stream("hello")) == cut
    # In a batch the other rows go on.
    both = list(generator.complete(["hello", "fine"]))
    assert both[0] == ended
    assert ended.tokens <= whole.tokens


def test_a_stream_is_the_completion_in_pieces(model: Model) -> None:
    generator = Generator(model, Decoding(seed=1, max_new_tokens=29))
    pieces = list(generator.stream("hello"))
    assert len(pieces) > 2
    assert "".join(pieces) == next(generator.complete(["hello"])).text


def test_what_does_not_fit_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match=r"prompt 2 has 60 tokens, with --max_new_tokens 11 .* n_positions 61"):
        list(Generator(model, GREEDY).complete(["hello", " a" * 60]))
    with pytest.raises(UserError, match="--stop has an empty text"):
        Generator(model, GREEDY, [""])
    with pytest.raises(UserError, match="--num_beams above 1"):
        Generator(model, Decoding(num_beams=2), ["x"])


def test_the_command(tags_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tags_run.run), "--max_new_tokens", "7", "--temperature", "0"]
    cli.generate([*options, "--prompt", "hello"])
    shown = capsys.readouterr().out
    file = tmp_path / "prompts.txt"
    file.write_text("hello\nfine, and you?\n", encoding="utf-8")
    cli.generate([*options, "--prompts", str(file)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in lines] == ["hello", "fine, and you?"]
    assert shown == lines[0]["text"] + "\n"
    cli.generate([*options, "--prompt", "hello", "--json"])
    assert json.loads(capsys.readouterr().out) == lines[0]
    with pytest.raises(UserError, match="either --prompt TEXT or --prompts FILE"):
        cli.generate(options)
    for wrong, message in ((["--stop+="], "empty text"), (["--stop+", "x", "--num_beams", "2"], "num_beams above 1")):
        with pytest.raises(UserError, match=message):  # and not that there is no such model
            cli.generate(["--model", str(tmp_path / "nothing"), "--prompt", "hello", *wrong])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        cli.generate([*options, "--prompts", str(file)])
