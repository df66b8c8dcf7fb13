"""The PyTorch engine says what transformers says, computes nothing twice, and survives being stopped."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_bots import encoded, make_folder, small_tokenizer
from transformers import GPT2LMHeadModel

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import BOT, Limits, draw_seed, open_engine
from jaxgpt.chat.torch_engine import TorchEngine
from jaxgpt.data.dialogue import EncodedConversation
from jaxgpt.errors import UserError

TEXTS = ("hello there", "how are you?", "fine, and what about you?")
STOP = (301, 302)  # hardly ever said
LIMITS = Limits(11, STOP, (0, 5, 17))
EOS = small_tokenizer().eos_token_id


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of small products wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engines")
    kinds = {"tags": "none", "sep": "types", "eos": "types", "table": "table"}
    return {
        name: make_folder(root / name, "tags" if name == "table" else name, roles, seed)
        for seed, (name, roles) in enumerate(kinds.items())
    }


@pytest.fixture(scope="module")
def tags(folders: dict[str, Path]) -> TorchEngine:
    return TorchEngine(folders["tags"])


def role_tokens(engine: TorchEngine, name: str, roles: np.ndarray) -> torch.Tensor | None:
    """What is added to the embeddings, as transformers takes it."""
    if name == "tags":
        return None
    return torch.tensor(roles.astype(np.int64) + (engine.cfg.vocab_size if name == "table" else 0))[None]


def all_logits(engine: TorchEngine, folder: Path, name: str, ids: Any, roles: Any) -> torch.Tensor:
    """(T, V) by a stock model in one pass."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    types = role_tokens(engine, name, np.array(roles))
    with torch.no_grad():
        return (
            model(torch.tensor(np.array(ids))[None], token_type_ids=types).logits[0, :, : engine.cfg.vocab_size].clone()
        )


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 1.3},
    "filters": {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "top_p": 1.0},
    "beams": {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2},
}


def by_transformers(engine: TorchEngine, folder: Path, name: str, decoding: Decoding, n: int) -> list[list[int]]:
    """n replies by `generate`, whose default generator gets the same seed."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    prompt = encoded(engine.tokenizer, engine.format.name, *TEXTS)
    types = role_tokens(engine, name, prompt.roles)
    sampling = {name: getattr(decoding, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    torch.manual_seed(draw_seed(decoding, LIMITS))
    out = model.generate(
        torch.tensor(prompt.ids)[None],
        **({} if types is None else {"token_type_ids": types}),
        do_sample=decoding.draws,
        **(
            sampling if decoding.draws else {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
        ),
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        begin_suppress_tokens=list(LIMITS.not_first),
        suppress_tokens=[engine.cfg.vocab_size, engine.cfg.vocab_size + 1] if name == "table" else None,
        max_new_tokens=LIMITS.max_new_tokens,
        eos_token_id=EOS,
        pad_token_id=EOS,
        num_return_sequences=n,
    )
    replies = [row[len(prompt.ids) :].tolist() for row in out]
    return [reply[: reply.index(EOS) + 1] if EOS in reply else reply for reply in replies]


# Draws from a table with rows for the roles come out otherwise, since there is another number of them.
@pytest.mark.parametrize(
    ("name", "settings"),
    [*(("tags", settings) for settings in SETTINGS), ("sep", "plain"), ("sep", "beams"), ("table", "beams")],
)
def test_it_says_what_transformers_generates(folders: dict[str, Path], name: str, settings: str) -> None:
    engine, decoding = TorchEngine(folders[name]), Decoding(**SETTINGS[settings], seed=5)
    prompt = encoded(engine.tokenizer, engine.format.name, *TEXTS)
    said = list(engine.stream(prompt, decoding, LIMITS))
    assert said == by_transformers(engine, folders[name], name, decoding, 1)[0]
    assert len(set(said)) > 3
    if decoding.draws:
        drawn = engine.draw(prompt, 4, decoding, LIMITS)
        assert drawn == by_transformers(engine, folders[name], name, decoding, 4)
        assert len({tuple(ids) for ids in drawn}) == 4


@pytest.mark.parametrize("name", ["tags", "sep", "eos", "table"])
def test_the_likeliest_is_that_of_a_model_without_a_cache(folders: dict[str, Path], name: str) -> None:
    """In eos the prompt ends with a token of the user's, and the reply has the bot's role all the same."""
    engine = TorchEngine(folders[name])
    prompt = encoded(engine.tokenizer, engine.format.name, *TEXTS)
    ids, roles = prompt.ids.tolist(), prompt.roles.tolist()
    for step in range(LIMITS.max_new_tokens):
        logits = all_logits(engine, folders[name], name, ids, roles)[-1]
        if step == 0:
            logits[list(LIMITS.not_first)] = -torch.inf
        ids.append(int(logits.argmax()))
        roles.append(BOT)
    said = list(engine.stream(prompt, Decoding(temperature=0), LIMITS))
    assert said == ids[len(prompt.ids) :]
    assert len(set(said)) > 3


def test_beams_of_a_reply_have_the_role_of_the_bot(folders: dict[str, Path]) -> None:
    engine, n = TorchEngine(folders["eos"]), 3
    prompt = encoded(engine.tokenizer, "eos", *TEXTS)

    def expanded(reply: list[int]) -> list[tuple[float, list[int]]]:
        ids, roles = [*prompt.ids, *reply], [*prompt.roles, *[BOT] * len(reply)]
        logs = all_logits(engine, folders["eos"], "eos", ids, roles)[-1].log_softmax(-1)
        return [(float(logs[id_]), [*reply, int(id_)]) for id_ in logs.topk(2 * n).indices]

    beams = sorted(expanded([]), reverse=True)[:n]
    found = max((before + now, ids) for before, reply in beams for now, ids in expanded(reply))
    said = list(engine.stream(prompt, Decoding(num_beams=n), Limits(2, STOP)))
    assert said == found[1]


def count_inputs(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass through the model gets, from now on."""
    lengths: list[int] = []
    forward = engine._model.transformer.forward
    monkeypatch.setattr(
        engine._model.transformer, "forward", lambda ids, **kw: lengths.append(ids.shape[1]) or forward(ids, **kw)
    )
    return lengths


@pytest.mark.parametrize("name", ["tags", "sep", "table"])
def test_a_second_turn_computes_only_its_new_tokens(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, decoding = TorchEngine(folders[name]), Decoding(seed=1)
    first = encoded(engine.tokenizer, engine.format.name, TEXTS[0])
    said = list(engine.stream(first, decoding, LIMITS))
    # The conversation goes on with exactly the ids that were said.
    end = engine.format.stop_ids(engine.tokenizer)
    more = engine.tokenizer.encode("A:and you?") if name != "sep" else engine.tokenizer.encode("and you?")
    ids = np.array([*first.ids, *said, *end, *more, *end], np.int64)
    roles = np.array([*first.roles, *[1] * len(said), *[name != "sep"] * len(end), *[0] * len(more), *[1] * len(end)])
    second = EncodedConversation(ids, np.zeros(len(ids), np.float32), roles.astype(np.uint8), (0,))
    lengths = count_inputs(engine, monkeypatch)
    reply = list(engine.stream(second, decoding, LIMITS))
    # The last token said was never fed, since nothing came after it.
    assert lengths == [1 + len(end) + len(more) + len(end), *[1] * (len(reply) - 1)]
    assert reply == list(TorchEngine(folders[name]).stream(second, decoding, LIMITS))
    # The same prompt again costs one token; a shorter one, too.
    lengths.clear()
    assert len(list(engine.stream(second, decoding, Limits(1, STOP)))) == 1
    assert lengths == [1]
    lengths.clear()
    assert list(engine.stream(first, decoding, LIMITS)) == said
    assert lengths == [1] * len(said)


def test_another_role_is_another_prefix(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(folders["sep"])
    prompt = encoded(engine.tokenizer, "sep", *TEXTS)
    other = EncodedConversation(prompt.ids, prompt.weights, 1 - prompt.roles, prompt.starts)
    greedy = Decoding(temperature=0)
    said = list(engine.stream(prompt, greedy, LIMITS))
    lengths = count_inputs(engine, monkeypatch)
    assert list(engine.stream(other, greedy, LIMITS)) != said
    assert lengths[0] == len(prompt.ids)


def test_conversations_that_take_turns_do_not_mix(tags: TorchEngine, folders: dict[str, Path]) -> None:
    decoding = Decoding(seed=2)
    prompts = [encoded(tags.tokenizer, "tags", text) for text in ("hello", "the weather is nice")]
    alone = [list(TorchEngine(folders["tags"]).stream(prompt, decoding, LIMITS)) for prompt in prompts]
    both = zip(*(tags.stream(prompt, decoding, LIMITS) for prompt in prompts), strict=True)
    assert [list(ids) for ids in zip(*both, strict=True)] == alone


def test_what_was_stopped_half_way_leaves_no_trace(tags: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, decoding = encoded(tags.tokenizer, "tags", *TEXTS), Decoding(seed=2)
    whole = list(tags.stream(prompt, decoding, LIMITS))
    stream = tags.stream(prompt, decoding, LIMITS)
    assert [next(stream), next(stream)] == whole[:2]
    stream.close()  # type: ignore[attr-defined]
    assert list(tags.stream(prompt, decoding, LIMITS)) == whole

    block = tags._model.transformer.h[1]
    calls: Counter[str] = Counter()

    def interrupted(*args: Any, **kwargs: Any) -> None:
        calls["forward"] += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(block, "forward", interrupted)  # layer 0 has its keys then, layers 1 and 2 have not
    with pytest.raises(KeyboardInterrupt):
        next(tags.stream(prompt, decoding, LIMITS))
    assert calls["forward"] == 1
    monkeypatch.undo()
    assert list(tags.stream(prompt, decoding, LIMITS)) == whole


def test_a_reply_ends_with_the_whole_stop_sequence(tags: TorchEngine) -> None:
    prompt, greedy = encoded(tags.tokenizer, "tags", *TEXTS), Decoding(seed=4)
    said = list(tags.stream(prompt, greedy, Limits(9, STOP)))
    assert len(set(said)) == 9
    assert list(tags.stream(prompt, greedy, Limits(9, (said[4], said[5])))) == said[:6]
    assert list(tags.stream(prompt, greedy, Limits(9, (said[5], said[4])))) == said
    drawn = tags.draw(prompt, 3, greedy, Limits(9, STOP))
    ended = tags.draw(prompt, 3, greedy, Limits(9, (drawn[1][2], drawn[1][3])))
    assert ended == [drawn[0], drawn[1][:4], drawn[2]]


def test_limits_and_seeds() -> None:
    limits = Limits(5, (7, 8))
    complete = [[7, 8], [1, 7, 8], [1, 99], [1, 2, 3, 4, 5]]
    assert all(limits.end(ids, 99) for ids in complete)
    assert not any(limits.end(ids, 99) for ids in ([], [8], [7], [8, 7], [7, 8, 1], [99, 1]))
    draws = [(1, 0), (1, 1), (3, 0)]
    seeds = [draw_seed(Decoding(seed=5), Limits(5, (7,), draw=draw)) for draw in draws]
    assert seeds == [draw_seed(Decoding(seed=5), Limits(9, (8,), draw=draw)) for draw in draws]
    assert len({*seeds, draw_seed(Decoding(seed=6), Limits(5, (7,), draw=(1, 0)))}) == 4
    assert draw_seed(Decoding(), limits) != draw_seed(Decoding(), limits)


@pytest.mark.parametrize("name", ["tags", "sep", "table"])
def test_the_mean_log_likelihood_by_cross_entropy(folders: dict[str, Path], name: str) -> None:
    engine = TorchEngine(folders[name])
    conversations, expected = [], []
    rng = np.random.default_rng(0)
    for texts in (TEXTS, TEXTS[:2], ("hello there", "hi!"), TEXTS):
        one = encoded(engine.tokenizer, engine.format.name, *texts)
        weights = rng.uniform(0.5, 2, len(one.ids)).astype(np.float32)
        weights[rng.uniform(size=len(one.ids)) < 0.5] = 0
        weights[:4] = [3, 0, 0, 0]  # that of position 0 never counts
        conversations.append(EncodedConversation(one.ids, weights, one.roles, one.starts))
        logits = all_logits(engine, folders[name], name, one.ids, one.roles).double()
        nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(one.ids[1:]), reduction="none").numpy()
        expected.append(-float((nll * weights[1:]).sum() / weights[1:].sum()))
    list(engine.stream(conversations[1], Decoding(seed=0), LIMITS))  # something else in the cache
    np.testing.assert_allclose(engine.mean_log_likelihood(conversations), expected, rtol=1e-5)


def test_replies_are_weighed_without_the_prompt_again(tags: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = encoded(tags.tokenizer, "tags", *TEXTS)
    replies = tags.draw(prompt, 3, Decoding(seed=0), LIMITS)
    lengths = count_inputs(tags, monkeypatch)
    ids = [np.array([*prompt.ids, *reply]) for reply in replies]
    weights = np.repeat(np.array([0, 1], np.float32), [len(prompt.ids), LIMITS.max_new_tokens])
    tags.mean_log_likelihood([EncodedConversation(one, weights, np.ones(len(one), np.uint8), (0,)) for one in ids])
    assert lengths == [1 + LIMITS.max_new_tokens] * 3


def test_what_is_no_bot_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def copied(**config: Any) -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folders["tags"], folder)
        content = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(content))
        return folder

    for wrong in (None, "irc", ["eos"]):
        with pytest.raises(UserError, match=re.escape(f"dialogue_format is {wrong!r}, the bot knows eos, tags, sep")):
            open_engine("torch", copied(dialogue_format=wrong))
    run = copied()
    (run / "config.json").rename(run / "config.yaml")
    with pytest.raises(UserError, match="is a run; export it first: jaxgpt export"):
        open_engine("torch", run)
    with pytest.raises(UserError, match="is no folder; the bot talks with a folder that `jaxgpt export` made"):
        open_engine("torch", tmp_path / "nothing")
    damaged = copied()
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors .*damaged|model\.safetensors ends"):
        open_engine("torch", damaged)
    weights.unlink()
    with pytest.raises(UserError, match=r"has neither|has no"):
        open_engine("torch", damaged)
    with pytest.raises(UserError, match=r"lacks 12 tensors: transformer\.h\.3\."):
        open_engine("torch", copied(n_layer=4))
    with pytest.raises(UserError, match=r"has beside a GPT-2's 12 tensors: transformer\.h\.2\."):
        open_engine("torch", copied(n_layer=2))
    with pytest.raises(UserError, match=r"c_fc\.\w+ has shape .* makes it"):
        open_engine("torch", copied(n_inner=73))
    without = copied()
    (without / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        open_engine("torch", without)
    larger = copied()
    small_tokenizer("<more>", "<and more>").save(larger)
    with pytest.raises(UserError, match=r"has a vocabulary of \d+ ids, its tokenizer .* one of \d+"):
        open_engine("torch", larger)
    broken = copied()
    tensors = load_file(broken / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    for kind in ("torch", "jax"):
        with pytest.raises(UserError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight .*not finite"):
            open_engine(kind, broken)  # type: ignore[arg-type]
