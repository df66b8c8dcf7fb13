"""What the PyTorch engine says is what transformers says, and where a reply ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_bots import encoded, make_folders, one_thread, small_tokenizer
from transformers import GPT2LMHeadModel

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import BOT, Limits, draw_seed
from jaxgpt.chat.torch_engine import TorchEngine
from jaxgpt.data.dialogue import EncodedConversation

TEXTS = ("hello there", "how are you?", "fine, and what about you?")
STOP = (301, 302)  # hardly ever said
LIMITS = Limits(11, STOP, (0, 5, 17))
EOS = small_tokenizer().eos_token_id


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with one_thread():
        yield make_folders(tmp_path_factory.mktemp("engines"))


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


def test_a_reply_ends_with_the_whole_stop_sequence(folders: dict[str, Path]) -> None:
    tags = TorchEngine(folders["tags"])
    prompt, seeded = encoded(tags.tokenizer, "tags", *TEXTS), Decoding(seed=4)
    said = list(tags.stream(prompt, seeded, Limits(9, STOP)))
    assert len(set(said)) == 9
    assert list(tags.stream(prompt, seeded, Limits(9, (said[4], said[5])))) == said[:6]
    assert list(tags.stream(prompt, seeded, Limits(9, (said[5], said[4])))) == said
    drawn = tags.draw(prompt, 3, seeded, Limits(9, STOP))
    ended = tags.draw(prompt, 3, seeded, Limits(9, (drawn[1][2], drawn[1][3])))
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
