"""Each rule against transformers' logits processors, and what they cannot say: frequencies, ties and ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from jaxgpt.decode import rules as decode
from jaxgpt.decode.rules import Modes, Rules, make_rules

constrain = jax.jit(decode.constrain, static_argnums=0)
choose = jax.jit(decode.choose, static_argnums=0)
truncate = jax.jit(decode.truncate)
ended = jax.jit(decode.ended)

AT = 19  # tokens so far; of the 23 slots the last ones hold what must not be seen
STARTS = (0, 5, 13, AT - 1)
VOCABULARIES = pytest.mark.parametrize("vocab_size", [131, 50257])


def _logits(vocab_size: int, rows: int = len(STARTS), seed: int = 0) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal((rows, vocab_size), dtype=np.float32)


def _ids(high: int, seed: int = 1) -> np.ndarray:
    """Few different tokens, so that some of them repeat; padding and future hold others that would do so too."""
    return np.random.default_rng(seed).integers(0, high, (len(STARTS), 23), dtype=np.int32)


def _ours(modes: Modes, rules: Rules, logits: np.ndarray, ids: np.ndarray, first: bool = False) -> np.ndarray:
    starts = jnp.asarray(STARTS, jnp.int32)
    return np.asarray(constrain(modes, rules, logits, ids, starts, jnp.int32(AT), jnp.bool_(first)))


def _theirs(processors: list[Any], logits: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Row by row, each with its own tokens. In double precision: a sum's rounding must not decide what stays."""
    rows = []
    for row, scores in enumerate(torch.from_numpy(logits).double()):
        tokens = torch.zeros(1, 1) if ids is None else torch.from_numpy(ids[row : row + 1, STARTS[row] : AT]).long()
        rows.append(hf.LogitsProcessorList(processors)(tokens.long(), scores[None]))
    return torch.cat(rows).numpy()


@VOCABULARIES
@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_is_transformers(vocab_size: int, penalty: float) -> None:
    logits, ids = _logits(vocab_size), _ids(97)
    ours = _ours(*make_rules(vocab_size, repetition_penalty=penalty), logits, ids)
    np.testing.assert_allclose(
        ours, _theirs([hf.RepetitionPenaltyLogitsProcessor(penalty)], logits, ids), rtol=1e-6, atol=0
    )
    assert [(row != before).sum() for row, before in zip(ours, logits, strict=True)] == [
        len(set(row[start:AT])) for row, start in zip(ids, STARTS, strict=True)
    ]


@VOCABULARIES
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_repeated_ngrams_are_banned_as_by_transformers(vocab_size: int, size: int) -> None:
    logits, banned = _logits(vocab_size), 0
    for seed in range(3):
        ids = _ids(high=2, seed=seed)
        ours = _ours(*make_rules(vocab_size, no_repeat_ngram_size=size), logits, ids)
        np.testing.assert_array_equal(ours, _theirs([hf.NoRepeatNGramLogitsProcessor(size)], logits, ids))
        banned += np.isinf(ours).sum()
    assert banned > 3


def test_an_ngram_longer_than_all_that_is_known_bans_nothing() -> None:
    modes, rules = make_rules(131, no_repeat_ngram_size=4)
    logits, ids = _logits(131, rows=1), np.full((1, 23), 7, np.int32)
    for at in (1, 2, 3):
        ours = constrain(modes, rules, logits, ids, jnp.zeros(1, jnp.int32), jnp.int32(at), jnp.bool_(False))
        np.testing.assert_array_equal(ours, logits)


def test_bans_hold_always_or_for_the_first_token_only() -> None:
    modes, rules = make_rules(131, banned=[3, 130], banned_first=[0, 3, 17])
    logits, ids = _logits(131), _ids(131)
    for first, banned in ((False, [3, 130]), (True, [0, 3, 17, 130])):
        ours = _ours(modes, rules, logits, ids, first)
        np.testing.assert_array_equal(ours, _theirs([hf.SuppressTokensLogitsProcessor(banned)], logits))
        assert (np.isinf(ours).sum(-1) == len(banned)).all()


@VOCABULARIES
def test_penalties_and_bans_together(vocab_size: int) -> None:
    options: dict[str, Any] = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "banned": [1, 5]}
    processors = [
        hf.RepetitionPenaltyLogitsProcessor(1.7),
        hf.NoRepeatNGramLogitsProcessor(2),
        hf.SuppressTokensLogitsProcessor([1, 5]),
    ]
    logits, ids = _logits(vocab_size), _ids(11)
    ours = _ours(*make_rules(vocab_size, **options), logits, ids)
    np.testing.assert_allclose(ours, _theirs(processors, logits, ids), rtol=1e-6, atol=0)


WARPERS: dict[str, Any] = {
    "top_k": hf.TopKLogitsWarper,
    "top_p": hf.TopPLogitsWarper,
    "min_p": hf.MinPLogitsWarper,
}


@VOCABULARIES
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 130},
        {"top_k": 60_000},
        {"top_p": 1e-6},
        {"top_p": 0.37},
        {"top_p": 0.95},
        {"min_p": 0.003},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"top_k": 41, "top_p": 0.8},
        {"top_k": 19, "min_p": 0.05},
        {"top_p": 0.9, "min_p": 0.1},
        {"top_k": 53, "top_p": 0.97, "min_p": 0.02},
        {"top_k": 53, "top_p": 0.5, "min_p": 0.02},
        {"top_k": 3, "top_p": 0.97, "min_p": 0.02},
    ],
    ids=str,
)
def test_truncation_leaves_what_transformers_leaves(vocab_size: int, options: dict[str, Any]) -> None:
    logits = _logits(vocab_size, rows=5)
    logits[1] *= 0.2  # flat
    logits[2] *= 4  # steep
    logits[3, 10:120] = -np.inf  # banned
    logits[4, 1:] = -np.inf
    modes, rules = make_rules(vocab_size, **options)
    assert modes.truncates
    processors = [WARPERS[name](value) for name, value in options.items()]
    np.testing.assert_array_equal(truncate(rules, logits), _theirs(processors, logits).astype(np.float32))


@pytest.mark.parametrize("temperature", [0.4, 1.9])
def test_the_temperature_comes_before_the_truncation(temperature: float) -> None:
    logits = _logits(131, rows=1)
    options: dict[str, Any] = {"top_k": 29, "top_p": 0.9, "min_p": 0.01}
    warpers = [hf.TemperatureLogitsWarper(temperature)] + [WARPERS[name](value) for name, value in options.items()]
    probabilities = torch.from_numpy(_theirs(warpers, logits)).softmax(-1).numpy()[0]
    modes, rules = make_rules(131, temperature=temperature, **options)
    counts = _draw(modes, rules, logits[0])
    assert ((counts > 0) <= (probabilities > 0)).all()
    assert _chi_square(counts, probabilities) < 1.5 * (probabilities > 0).sum() + 20


def _draw(modes: Modes, rules: Rules, logits: np.ndarray, n: int = 5003) -> np.ndarray:
    """How often each token comes in n draws with n keys."""
    keys = jax.random.split(jax.random.key(3), n)
    drawn = choose(modes, rules, jnp.broadcast_to(logits, (n, len(logits))), keys)
    return np.bincount(drawn, minlength=len(logits))


def _chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities[probabilities > 0]
    return float(((counts[probabilities > 0] - expected) ** 2 / expected).sum())


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    probabilities = np.zeros(131)
    probabilities[[2, 3, 17, 96, 130]] = [0.4, 0.02, 0.25, 0.13, 0.2]
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities).astype(np.float32) + 7
    counts = _draw(*make_rules(131), logits)
    assert counts.sum() == counts[probabilities > 0].sum()
    assert _chi_square(counts, probabilities) < 18  # four degrees of freedom: p = 0.001
    # The measure notices a temperature that was forgotten.
    assert _chi_square(_draw(*make_rules(131, temperature=1.3), logits), probabilities) > 40
    counts = _draw(*make_rules(131, top_p=0.7), logits)  # 0.4 + 0.25 is not enough yet
    probabilities[[3, 96]] = 0
    assert counts.sum() == counts[probabilities > 0].sum()
    assert _chi_square(counts, probabilities / 0.85) < 14


def test_a_key_decides_the_draw() -> None:
    modes, rules = make_rules(131)
    logits, keys = jnp.zeros((1009, 131)), jax.random.split(jax.random.key(5), 1009)
    drawn = np.asarray(choose(modes, rules, logits, keys))
    np.testing.assert_array_equal(drawn, choose(modes, rules, logits, keys))
    assert (drawn != np.asarray(choose(modes, rules, logits, keys[::-1]))).mean() > 0.9


def test_greedy_takes_the_first_of_the_likeliest_whatever_the_rest_says() -> None:
    modes, rules = make_rules(131, temperature=0, top_k=3, top_p=0.5)
    assert modes == Modes(greedy=True)
    logits = _logits(131)
    logits[0, [88, 31, 90]] = 50
    keys = jax.random.split(jax.random.key(0), len(logits))
    drawn = np.asarray(choose(modes, rules, logits, keys))
    np.testing.assert_array_equal(drawn, torch.from_numpy(logits).argmax(-1))
    assert drawn[0] == 31


def test_ties_with_the_last_token_that_stays_stay() -> None:
    logits = np.array([[1, 5, 3, 3, 3, -2, 4]], np.float32)
    kept = [1, 2, 3, 4, 6]
    _, rules = make_rules(7, top_k=3)
    assert np.isfinite(np.asarray(truncate(rules, logits)))[0].nonzero()[0].tolist() == kept
    np.testing.assert_array_equal(truncate(rules, logits), _theirs([hf.TopKLogitsWarper(3)], logits))
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    _, rules = make_rules(7, top_p=float(probabilities[[1, 6]].sum()) + 0.01)
    assert np.isfinite(np.asarray(truncate(rules, logits)))[0].nonzero()[0].tolist() == kept
    _, rules = make_rules(7, top_p=0.1, top_k=2, min_p=0.9)
    np.testing.assert_array_equal(truncate(rules, np.zeros((1, 7), np.float32)), np.zeros((1, 7)))


def _ended(rules: Rules, ids: np.ndarray, at: int, drawn: int) -> list[bool]:
    return np.asarray(ended(rules, ids[:, at], ids, jnp.int32(at), jnp.int32(drawn))).tolist()


def test_a_row_ends_with_eos_or_a_stop_sequence_of_drawn_tokens() -> None:
    stops = [[4], [1, 2], [2, 2, 0], [3, 1, 0, 2]]
    _, rules = make_rules(7, eos_id=6, stops=stops)
    random, seen = np.random.default_rng(0), set()
    for _ in range(60):
        ids = random.integers(0, 7, (23, 11), dtype=np.int32)
        ids[:4, 3:7] = [3, 1, 0, 2]
        drawn = int(random.integers(1, 7))
        at = int(random.integers(drawn, 11))
        expected = []
        for row in ids:
            tail = row[at - drawn + 1 : at + 1].tolist()
            ends = [stop for stop in [[6], *stops] if tail[-len(stop) :] == stop]
            seen |= {tuple(stop) for stop in ends}
            expected.append(bool(ends))
        assert _ended(rules, ids, at, drawn) == expected
    assert len(seen) == 5  # each of them ended a row


def test_a_stop_sequence_may_not_begin_in_the_prompt() -> None:
    _, rules = make_rules(131, stops=[[5, 6, 7]])
    ids = np.array([[9, 5, 6, 7, 0]], np.int32)
    assert [_ended(rules, ids, 3, drawn) for drawn in (1, 2, 3)] == [[False], [False], [True]]


def test_nothing_ends_without_eos_and_stops() -> None:
    _, rules = make_rules(131)
    assert _ended(rules, np.arange(131, dtype=np.int32)[:, None], 0, 1) == [False] * 131
