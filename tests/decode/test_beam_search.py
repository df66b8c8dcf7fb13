"""Beam search against transformers' beams and against the best of all sequences."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny_models import N_POSITIONS, Model, filled, prompts_of, random_model, uncached_logits, with_torch
from transformers import StoppingCriteria, StoppingCriteriaList

from jaxgpt.decode.beam import beam_search
from jaxgpt.decode.loop import advance, drawn_ids
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.decode.rules import make_rules

N = 23
PROMPTS = prompts_of(3, N_POSITIONS - N, 1)
Found = tuple[list[list[int]], list[float]]


def _search(
    model: Model,
    num_beams: int,
    prompts: list[list[int]] = PROMPTS,
    roles: list[list[int]] | None = None,
    max_new: int = N,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    **rules: Any,
) -> Found:
    how = make_rules(model[0].vocab_size, **rules)
    return beam_search(*model, prompts, roles, max_new, num_beams, length_penalty, early_stopping, *how)


def _transformers(model: Any, prompt: list[int], eos_id: int | None = None, **options: Any) -> tuple[list[int], float]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=N,
        eos_token_id=eos_id,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    return out.sequences[0, len(prompt) :].tolist(), out.sequences_scores[0].item()


def _assert_equal(ours: Found, theirs: list[tuple[list[int], float]]) -> None:
    ids, scores = zip(*theirs, strict=True)
    assert ours[0] == list(ids)
    np.testing.assert_allclose(ours[1], scores, rtol=1e-5)


def _common_token(model: Model, num_beams: int, **rules: Any) -> int:
    """The token that the beams meet most often, so that as eos it ends them here and there."""
    drawn = _search(model, num_beams, length_penalty=0.0, **rules)[0]
    return int(np.bincount([token for row in drawn for token in row]).argmax())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_beams", "rules"),
    [(2, {}), (3, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}), (5, {}), (7, {"no_repeat_ngram_size": 1})],
    ids=str,
)
def test_the_best_beams_are_those_of_transformers(num_beams: int, rules: dict[str, Any]) -> None:
    lengths: set[int] = set()
    for seed in (0, 1):
        torch_model, model = with_torch(seed)
        eos_id = _common_token(model, num_beams, **rules)
        for length_penalty, early_stopping in itertools.product((-1.0, 0.0, 0.6, 1.0, 2.0), (False, True)):
            options = {"length_penalty": length_penalty, "early_stopping": early_stopping, **rules}
            found = _search(model, num_beams, eos_id=eos_id, **options)
            # Not every prompt with every option: transformers takes its time.
            for row in {0, 1, 2} - {(seed + int(2 * length_penalty) + early_stopping) % 3}:
                theirs = _transformers(torch_model, PROMPTS[row], eos_id, num_beams=num_beams, **options)
                _assert_equal(([found[0][row]], [found[1][row]]), [theirs])
                lengths.add(len(theirs[0]))
    assert len(lengths) > 3  # eos came at different lengths


def test_without_eos_all_tokens_are_drawn_as_by_transformers() -> None:
    torch_model, model = with_torch(3)
    found = _search(model, 5)
    _assert_equal(found, [_transformers(torch_model, prompt, num_beams=5) for prompt in PROMPTS])
    assert [len(row) for row in found[0]] == [N] * 3


def _log_probs(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.tensor(logits), -1).numpy()


class _Stop(StoppingCriteria):
    """Ends a row whose drawn tokens end in one of the sequences."""

    def __init__(self, stops: Sequence[Sequence[int]], prompt_length: int):
        self._stops, self._prompt_length = stops, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        rows = input_ids[:, self._prompt_length :].tolist()
        return torch.tensor([any(row[-len(stop) :] == list(stop) for stop in self._stops) for row in rows])


def test_stop_sequences_and_bans_are_those_of_transformers() -> None:
    torch_model, model = with_torch(4)
    free = _search(model, 5)[0]
    # Several of them, so that more beams end at once than there is room for among the best.
    stops = [free[0][3:5], free[1][2:5], *([token] for token in free[2][4:12]), [PROMPTS[1][-1], free[1][0]]]
    bans = list(range(0, 131, 3))
    found = _search(model, 5, stops=stops, banned=[7, 11], banned_first=bans, eos_id=free[0][9])
    expected = [
        _transformers(
            torch_model,
            prompt,
            free[0][9],
            num_beams=5,
            suppress_tokens=[7, 11],
            begin_suppress_tokens=bans,
            stopping_criteria=StoppingCriteriaList([_Stop(stops, len(prompt))]),
        )
        for prompt in PROMPTS
    ]
    _assert_equal(found, [(ids[: len(row)], score) for row, (ids, score) in zip(found[0], expected, strict=True)])
    for row, (ids, _) in zip(found[0], expected, strict=True):
        assert not any(ids[len(row) :])  # padding
        assert row[0] % 3
    assert any(len(row) < N and row[-1] != free[0][9] for row in found[0])


def test_a_beam_that_ends_in_a_stop_sequence_keeps_it_and_others_go_on() -> None:
    _, model = with_torch(5)
    free, scores = _search(model, 3, length_penalty=0.0)
    stop = free[0][:2]
    found, stopped = _search(model, 3, length_penalty=0.0, stops=[stop])
    assert found[0] == stop  # shorter, and so far the best: without length_penalty nothing longer is likelier
    assert stopped[0] > scores[0]
    assert _search(model, 3, length_penalty=9.0, stops=[stop])[0][0] != stop


def test_rows_of_a_batch_have_nothing_to_do_with_each_other() -> None:
    _, model = with_torch(6)
    eos_id = _common_token(model, 3)
    found = _search(model, 3, eos_id=eos_id)
    assert len({len(row) for row in found[0]}) > 1  # they end at different times
    backwards = _search(model, 3, PROMPTS[::-1], eos_id=eos_id)
    assert backwards[0] == found[0][::-1]
    fewer = _search(model, 3, [*PROMPTS[1:], PROMPTS[1][-5:]], eos_id=eos_id)
    assert fewer[0][:2] == found[0][1:]


def test_token_types_are_those_of_transformers() -> None:
    torch_model, model = with_torch(7, {"use_token_types": True, "scan_layers": True}, tie_word_embeddings=False)
    roles = prompts_of(*map(len, PROMPTS), high=2, seed=1)
    for types in roles:
        types[-1] = 1  # transformers gives it to all that follows
    expected = [
        _transformers(torch_model, prompt, num_beams=3, token_type_ids=torch.tensor([types]))
        for prompt, types in zip(PROMPTS, roles, strict=True)
    ]
    _assert_equal(_search(model, 3, roles=roles, role=1), expected)


@pytest.mark.slow
def test_enough_beams_find_the_best_of_all_sequences() -> None:
    shape = {"vocab_size": 11, "embed_dim": 7, "share": "all", "use_role_table": True, "scan_layers": True}
    plain = random_model(**shape)
    prompts, roles = prompts_of(5, 2, high=11), prompts_of(5, 2, high=2)
    eos, length_penalty = 4, 0.7

    def best(prompt: list[int], types: list[int]) -> tuple[list[int], float]:
        everything = [list(three) for three in itertools.product(range(11), repeat=3)]
        values = uncached_logits(plain, [prompt + three for three in everything], [types + [1] * 3] * len(everything))
        scores: dict[tuple[int, ...], float] = {}
        for three, logits in zip(everything, values, strict=True):
            logs = _log_probs(logits[len(prompt) - 1 : -1])
            n = three.index(eos) + 1 if eos in three else 3
            scores[tuple(three[:n])] = float(logs[range(n), three[:n]].sum()) / n**length_penalty
        ids = max(scores, key=scores.__getitem__)
        return list(ids), scores[ids]

    expected = [best(prompt, types) for prompt, types in zip(prompts, roles, strict=True)]
    # All but eos, 10 by 10 of them; as many may be over before.
    options: dict[str, Any] = {"length_penalty": length_penalty, "eos_id": eos, "role": 1}
    _assert_equal(_search(for_decoding(*plain), 121, prompts, roles, 3, **options), expected)


def test_one_beam_without_eos_is_greedy() -> None:
    _, model = with_torch(8)
    modes, rules = make_rules(131, temperature=0)
    state = filled(model, PROMPTS, N)
    greedy = drawn_ids(advance(model[0], modes, model[1], rules, state, state.first + N, jnp.int32(0)), rules)
    # What is for draws only does not count.
    assert _search(model, 1, temperature=0.5, top_k=1, min_p=1.0)[0] == greedy


def test_one_token_is_the_likeliest() -> None:
    _, model = with_torch(8)
    values = [logits[-1] for logits in uncached_logits(model, PROMPTS)]
    found, scores = _search(model, 3, max_new=1)
    assert found == [[int(value.argmax())] for value in values]
    expected = [float(_log_probs(value).max()) for value in values]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_bfloat16_scores_are_nearly_those_of_the_exact_model() -> None:
    plain = random_model()
    half = for_decoding(random_model(dtype="bfloat16")[0], plain[1])
    found, scores = _search(half, 3)
    whole = [prompt + new for prompt, new in zip(PROMPTS, found, strict=True)]
    for prompt, new, score, logits in zip(PROMPTS, found, scores, uncached_logits(plain, whole), strict=True):
        logs = _log_probs(logits[len(prompt) - 1 : -1])
        assert score == pytest.approx(logs[range(N), new].mean(), rel=0.1)


def test_bans_that_leave_nothing_give_nothing() -> None:
    _, model = with_torch(8)
    assert _search(model, 3, banned=range(131)) == ([[]] * 3, [-np.inf] * 3)
    found, scores = _search(model, 3, banned_first=[*range(88), *range(89, 131)])  # fewer tokens than beams
    assert [row[0] for row in found] == [88] * 3
    assert np.isfinite(scores).all()


def test_any_finite_length_penalty_gives_a_sequence() -> None:
    _, model = with_torch(8)
    for length_penalty in (-500.0, 500.0):
        assert all(row for row in _search(model, 3, length_penalty=length_penalty)[0])
