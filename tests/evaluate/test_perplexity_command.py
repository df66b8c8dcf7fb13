"""`jaxgpt perplexity` in this process: every kind of data and of model, and one sentence for every mistake."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny_run
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
)

from jaxgpt import cli
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate import scoring, subject
from jaxgpt.evaluate.measuring import measure_on
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.subject import Subject, open_subject
from jaxgpt.evaluate.torch_scoring import TorchScorer
from jaxgpt.train.pmapped import Pmapped

Json = Callable[..., dict[str, Any]]
WIKITEXT = (
    " \n = Robert Boulter = \n \n Robert <unk> is an English film , television and theatre actor . \n"
    " = = Career = = \n \n He had a guest @-@ starring role in the series The Bill in 2000 . \n \n"
    " = Du Fu = \n \n Du Fu ( 712 – 770 ) was a prominent poet of the Tang dynasty . \n"
)
SIZES = {
    "vocab_size": 50257,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 61,
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles faster; tests of the parts take all devices."""
    monkeypatch.setattr(scoring, "Pmapped", lambda: Pmapped(jax.devices()[:1]))


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Json:
    """What the command prints as JSON. Lines before it are for people."""

    def run(model: Path, data: str, *others: str) -> dict[str, Any]:
        cli.perplexity(["--model", str(model), "--data", data, *others, "--json"])
        *lines, last = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(str(model))
        assert f" on {data}, " in lines[0]
        assert ", tokenizer " in lines[0]
        assert len(lines) > 2
        assert all(line.startswith("  ") for line in lines[1:])
        return json.loads(last)

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    contents = {
        "text": "Some plain text, long enough for more than one window. " * 6,
        "wikitext2": WIKITEXT,
        "dialogue": "".join(json.dumps(talk) + "\n" for talk in tiny_run.CONVERSATIONS[:6]),
        "lambada": "".join(json.dumps({"text": f"passage number {n} ends with this word"}) + "\n" for n in range(5)),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return {name: folder / name for name in contents}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock folder of a model that is no GPT-2."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2, initializer_range=0.3)).save_pretrained(folder)
    load_tokenizer("gpt2").save(folder)
    return folder


@pytest.mark.slow
def test_pages_by_their_folder_or_by_their_kind(tags_run, measured: Json) -> None:
    bare = measured(tags_run.run, str(tags_run.pages))
    assert measured(tags_run.run, f"pages:{tags_run.pages}") == bare
    train = measured(tags_run.run, f"pages:{tags_run.pages}", "--split", "train")
    assert train["words"] + bare["words"] == sum(len(turn.split()) for talk in tiny_run.CONVERSATIONS for turn in talk)
    earlier = measured(tags_run.run, str(tags_run.pages), "--step", "1")
    assert earlier["tokens"] == bare["tokens"]
    assert earlier["nll_sum"] != bare["nll_sum"]
    assert bare["token_perplexity"] == pytest.approx(math.exp(bare["nll_sum"] / bare["tokens"]))


@pytest.mark.slow
def test_text_by_every_protocol(tags_run, files: dict[str, Path], measured: Json) -> None:
    data = f"text:{files['text']}"
    chosen = ["--protocol", "token", "adjusted", "--context", "32", "--stride", "8"]
    found = measured(tags_run.hf, data, *chosen)
    assert [figure["protocol"] for figure in found["figures"]] == [
        "token[context=32,stride=8]",
        "adjusted[context=32,stride=8]",
    ]
    found = measured(tags_run.hf, data)
    token, word, bits = found["figures"]
    assert found["warnings"] == []
    assert found["documents"] == 1
    assert [figure["protocol"] for figure in (token, word, bits)] == [
        "token[context=61,stride=61]",
        "word",
        "bits_per_byte",
    ]
    assert word["bytes"] == len(files["text"].read_text())
    assert word["value"] == pytest.approx(math.exp(word["nll_sum"] / word["words"]))
    assert bits["value"] == pytest.approx(word["nll_sum"] / math.log(2) / word["bytes"])
    assert token["low"] < token["value"] < token["high"]


@pytest.mark.slow
def test_wikitext_dialogue_and_lambada(tags_run, files: dict[str, Path], measured: Json) -> None:
    found = measured(tags_run.run, f"wikitext2:{files['wikitext2']}", "--protocol", "word")
    assert found["documents"] == 2
    assert [figure["protocol"] for figure in found["figures"]] == ["word"]
    assert found["figures"][0]["bytes"] == len(WIKITEXT.encode()) - 3  # a blank line first, a line end between

    found = measured(tags_run.run, f"dialogue:{files['dialogue']}")
    assert found["conversations"] == 6
    assert [figure["protocol"] for figure in found["figures"]] == ["token", "token[responses]", "word", "bits_per_byte"]
    assert sum(group["nll_sum"] for group in found["by_role"]) == pytest.approx(found["figures"][0]["nll_sum"])
    assert sum(group["tokens"] for group in found["by_turn"]) == found["figures"][0]["tokens"]

    found = measured(tags_run.run, f"lambada:{files['lambada']}")
    protocols = ["perplexity[last_word]", "accuracy[last_word]", "perplexity[last_token]", "accuracy[last_token]"]
    assert [figure["protocol"] for figure in found["figures"]] == protocols
    assert found["passages"] == 5


@pytest.mark.slow
def test_pytorch_and_jax_give_the_same_figures(tags_run, files: dict[str, Path]) -> None:
    ours = open_subject(str(tags_run.hf), None, None, None)
    assert ours.model
    theirs = Subject(ours.name, TorchScorer(str(tags_run.hf)), ours.tokenizer, ours.n_parameters, None)
    for kind in ("text", "wikitext2", "dialogue", "lambada"):
        options = DataOptions(f"{kind}:{files[kind]}", format="tags" if kind == "dialogue" else None)
        one, other = measure_on(ours, options), measure_on(theirs, options)
        for mine, torchs in zip(one["figures"], other["figures"], strict=True):
            for name in ("value", "low", "high", "nll_sum", "tokens", "words", "bytes"):
                if name in torchs and torchs[name] is not None:
                    assert mine[name] == pytest.approx(torchs[name], rel=1e-4), (kind, name)


def test_a_model_of_another_kind(llama: Path, files: dict[str, Path], measured: Json) -> None:
    found = measured(llama, f"text:{files['text']}", "--protocol", "token", "--context", "50", "--stride", "20")
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.tensor([load_tokenizer("gpt2").encode(files["text"].read_text())])
    nll, done = 0.0, 1
    for begin in range(0, ids.size(1), 20):
        window = ids[:, begin : begin + 50]
        with torch.inference_mode():
            each = model(window[:, :-1]).logits[0].log_softmax(-1).gather(-1, window[0, 1:, None])
        new = begin + window.size(1) - done
        nll, done = nll - float(each[len(each) - new :].sum()), done + new
        if done == ids.size(1):
            break
    (token,) = found["figures"]
    assert token["tokens"] == ids.size(1) - 1
    assert token["value"] == pytest.approx(math.exp(nll / token["tokens"]), rel=1e-4)


def test_another_kind_of_model_reads_dialogue_and_goes_on(llama: Path, files: dict[str, Path], measured: Json) -> None:
    found = measured(llama, f"dialogue:{files['dialogue']}", "--format", "eos", "--batch_size", "2")
    assert found["conversations"] == 6
    scorer = TorchScorer(str(llama))
    drawn = scorer.draw([1, 2, 3], 8, seed=0)
    assert len(drawn) <= 8
    assert drawn == scorer.draw([1, 2, 3], 8, seed=0)
    assert len(scorer.draw([5] * 200, 500, seed=0)) <= 61 - 31


@pytest.mark.slow
def test_the_batch_size_changes_nothing(tags_run, files: dict[str, Path], measured: Json) -> None:
    one, other = (
        measured(tags_run.hf, f"text:{files['text']}", "--protocol", "word", "--batch_size", size) for size in "18"
    )
    for name, value in one["figures"][0].items():
        assert other["figures"][0][name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), name


@pytest.fixture(scope="module")
def subjects(tags_run, llama: Path) -> dict[str, Subject]:
    return {"gpt2": open_subject(str(tags_run.hf), None, None, None), "llama": open_subject(str(llama), None, None, 8)}


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("gpt2", "text:{empty}", "{empty} is empty; leave it out of --data"),
        ("gpt2", "text:{blank}", "--data text:{blank} holds no text; give a file that does"),
        ("gpt2", "dialogue:{empty}", "{empty} is empty; leave it out of --data"),
        ("gpt2", "dialogue:{blank}", "0 conversations have no token that counts"),
        ("gpt2", "lambada:{blank}", "{blank} holds no passage"),
        ("gpt2", "text:{letter}", "--data text:{letter} has 1 tokens; two are the least that predict anything"),
        ("llama", "text:{letter}", "--data text:{letter} has 1 tokens; two are the least that predict anything"),
        ("gpt2", "text:{text} --stride 40 --context 30", "--stride is 40; it must be 1 to --context 30"),
        ("gpt2", "text:{text} --stride 62", "--stride is 62; it must be 1 to --context 61"),
        ("gpt2", "text:{text} --context 62", "--context is 62; the model takes 2 to 61 tokens"),
        ("llama", "text:{text} --context 62", "--context is 62; the model takes 2 to 61 tokens"),
        ("gpt2", "text:{text} --context 0", "--context is 0; it must be above 0"),
        ("gpt2", "text:{text} --stride -1", "--stride is -1; it must be above 0"),
        ("gpt2", "text:{text} --protocol token words", "--protocol words is unknown; the protocols are token, word"),
        ("gpt2", "text:{text} --protocol+ word", "--protocol+ adds to no list; write --protocol, and what it is to be"),
        ("gpt2", "text:{text} --protocols+ word", "there is no option protocols; did you mean protocol?"),
        ("gpt2", "dialogue:{text} --protocol word", "--protocol is of texts, which --data dialogue:{text} is not"),
        ("gpt2", "pages:{text} --context 9", "--context is of texts, which --data pages:{text} is not; leave it out"),
        ("gpt2", "lambada:{text} --stride 9", "--stride is of texts, which --data lambada:{text} is not; leave it out"),
        ("gpt2", "text:{text} --split valid", "--split is of pages, which --data text:{text} is not; leave it out"),
        ("gpt2", "dialogue:{text} --cache c", "--cache is of pages, which --data dialogue:{text} is not; leave it out"),
        ("gpt2", "text:{text} --format tags", "--format is of dialogue, which --data text:{text} is not; leave it out"),
        ("gpt2", "lambada:{text} --format tags", "--format is of dialogue, which --data lambada:{text} is not"),
        ("gpt2", "pages:{text} --text_field a", "--text_field is of KIND:PATHS, which --data pages:{text} is not"),
        ("gpt2", "wikitext2:{text} --text_field a", "--text_field is of KIND:PATHS, which --data wikitext2:{text} is"),
        ("gpt2", "lambada:{text} --separator x", "--separator is of KIND:PATHS, which --data lambada:{text} is not"),
        ("gpt2", "text:{text} --text_field a", "--text_field is for the kinds jsonl, parquet, openwebtext, tfds, hf,"),
        (
            "gpt2",
            "dialogue:{text} --format eos --separator x",
            "--separator is for the kinds text, and --data has none; leave it out",
        ),
        (
            "gpt2",
            "text:{text} --protocol word bits_per_byte --stride 9",
            "--stride is 9, but --protocol word bits_per_byte has no windows to choose; leave it out, or add token",
        ),
        ("gpt2", "{text} --split valid", "--data {text}: write pages:DIR"),
        ("gpt2", "dialogue:{text} --format foo", "--format is 'foo'; it must be one of eos, tags, sep"),
        ("llama", "dialogue:{text}", "give one: --format eos | tags | sep"),
        ("gpt2", "pages:{text}", "{text} is a file; build pages of it first"),
        ("llama", "pages:{text}", "pages hold token ids, and {llama} is no GPT-2; give the text itself, as text:FILE"),
        ("gpt2", "{text}", "--data {text}: write pages:DIR, KIND:PATHS with KIND of text, jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(
    kind: str,
    arguments: str,
    message: str,
    subjects: dict[str, Subject],
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "open_subject", lambda *_: subjects[kind])
    paths = {name: tmp_path / name for name in ("empty", "blank", "letter")}
    for name, content in (("empty", ""), ("blank", " \n\n"), ("letter", "a")):
        paths[name].write_text(content)
    names = {**{name: str(path) for name, path in (paths | files).items()}, "llama": subjects["llama"].name}
    with pytest.raises(UserError) as error:
        cli.perplexity(["--model", "any", "--data", *arguments.format(**names).split()])
    assert message.format(**names) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_mistake_about_the_model_is_one_sentence(
    kind: str, tags_run, llama: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    load_tokenizer("gpt2").with_tokens(["<a>", "<b>", "<c>"]).save(tmp_path)
    smaller = f"a vocabulary of 50257 ids, the tokenizer {tmp_path} one of 50260; give the one"
    cases = {
        "--step 1": "is no run, so it has no checkpoint of step 1; leave --step out",
        "--batch_size -8": "--batch_size is -8; it must be above 0",
        f"--tokenizer {tmp_path}": smaller
        if kind == "llama"
        else "of its own (d7d9ff14ea2e), which is not --tokenizer",
        "--tokenizer nowhere": "tokenizer 'nowhere' could not be loaded",
    }
    model = str(llama if kind == "llama" else tags_run.hf)
    for arguments, message in cases.items():
        with pytest.raises(UserError) as error:
            cli.perplexity(["--model", model, "--data", f"text:{files['text']}", *arguments.split()])
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_model_without_tokenizer_takes_one(tags_run, llama: Path, files: dict[str, Path], tmp_path: Path) -> None:
    data = f"lambada:{files['lambada']}"
    load_tokenizer("gpt2").with_tokens(["<a>"]).save(tmp_path / "larger")
    for model in (tags_run.hf, llama):
        bare = tmp_path / model.name
        shutil.copytree(model, bare)
        for file in [*bare.glob("*token*"), *bare.glob("vocab*"), *bare.glob("merges*")]:
            file.unlink()
        with pytest.raises(UserError, match=r"^[^\n]*trained with as --tokenizer$"):
            cli.perplexity(["--model", str(bare), "--data", data])
        with pytest.raises(UserError, match=r"a vocabulary of 50257 ids, the tokenizer .* one of 50258; give the one"):
            open_subject(str(bare), None, str(tmp_path / "larger"), None)
        with_own, with_given = (
            measure_on(open_subject(str(folder), None, name, None), DataOptions(data))
            for folder, name in ((model, None), (bare, "gpt2"))
        )
        assert with_own == with_given


def test_a_model_that_also_sees(tmp_path: Path) -> None:
    text = Gemma3TextConfig(**SIZES | {"vocab_size": 300}, num_hidden_layers=1, num_key_value_heads=1, head_dim=8)
    seen = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    torch.manual_seed(3)
    Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4)
    ).save_pretrained(tmp_path)
    scorer = TorchScorer(str(tmp_path))
    assert (scorer.context, scorer.vocab_size) == (62, 300)


def test_models_that_give_no_figures(llama: Path, files: dict[str, Path], tmp_path: Path) -> None:
    def refused(model: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            open_subject(str(model), None, "gpt2", None)
        assert "\n" not in str(error.value)

    whole = AutoModelForCausalLM.from_pretrained(llama)
    kept = {name: value for name, value in whole.state_dict().items() if "layers.1.mlp" not in name}
    whole.save_pretrained(tmp_path / "holes", state_dict=kept)
    refused(tmp_path / "holes", r"its weights lack model.layers.1.mlp.down_proj.weight, .*; give the whole model")

    shutil.copytree(llama, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nonsense")
    refused(tmp_path / "broken", r"can't be loaded by transformers \(.*\); give a folder or hub name")

    shutil.copytree(llama, tmp_path / "unknown")
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "nonesuch"}')
    refused(tmp_path / "unknown", r"can't be loaded by transformers \(.*nonesuch.*\); give a folder or hub name")

    torch.manual_seed(3)
    bert = BertLMHeadModel(BertConfig(**SIZES, num_hidden_layers=1, initializer_range=0.3))
    bert.save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", r"sees the tokens that it is to predict; give a causal language model")
