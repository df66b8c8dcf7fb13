"""The loop with a cache against transformers and the model without one, and a state that is cut and filled again.

The shapes are nearly the same everywhere, because what takes time here is compiling.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny_models import N_POSITIONS, Model, filled, prompts_of, random_model, uncached_logits, with_torch

from jaxgpt.decode.loop import State, advance, bucket, drawn_ids, empty_state, fill, set_up
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.decode.rules import Modes, Rules, make_rules

FILLER = 113
N = 29  # drawn tokens, where nothing ends earlier
LONGEST = N_POSITIONS - N  # its last token stands at the last position
PROMPTS = prompts_of(3, LONGEST, 1, 17)
GREEDY = make_rules(131, temperature=0)
WARM: dict[str, Any] = {"temperature": 1.3, "top_k": 50, "top_p": 0.95}
SAMPLING = make_rules(131, **WARM)


def _advance(model: Model, how: tuple[Modes, Rules], state: State, n: int = N) -> State:
    """n tokens more, of a copy: the loop uses its state up."""
    modes, rules = how
    state = jax.tree.map(jnp.copy, state)
    return advance(model[0], modes, model[1], rules, state, state.at + n, jnp.int32(FILLER))


def _generate(
    model: Model, how: tuple[Modes, Rules], prompts: list[list[int]] = PROMPTS, n: int = N, **options: Any
) -> list[list[int]]:
    state = filled(model, prompts, n, **options)
    return drawn_ids(_advance(model, how, state, n), how[1])


def _joined(prompts: list[list[int]], drawn: list[list[int]]) -> list[list[int]]:
    return [prompt + new for prompt, new in zip(prompts, drawn, strict=True)]


@pytest.fixture(scope="module")
def plain() -> Model:
    return random_model()


@pytest.fixture(scope="module")
def model(plain: Model) -> Model:
    return for_decoding(*plain)


def _transformers(model: Any, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": N, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings | options)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        (
            {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
            {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        ),
        (
            {"banned": range(0, 131, 2), "banned_first": range(101)},
            {"suppress_tokens": list(range(0, 131, 2)), "begin_suppress_tokens": list(range(101))},
        ),
    ],
    ids=["plain", "penalties", "bans"],
)
def test_greedy_tokens_are_those_of_transformers(options: dict[str, Any], theirs: dict[str, Any]) -> None:
    torch_model, model = with_torch()
    drawn = _generate(model, make_rules(131, temperature=0, **options))
    assert drawn == [_transformers(torch_model, prompt, **theirs) for prompt in PROMPTS]
    if "banned" in options:
        assert all(min(row) % 2 and row[0] > 100 for row in drawn)
    eos = drawn[1][N // 2]
    ended = _generate(model, make_rules(131, temperature=0, eos_id=eos, **options))[1]
    assert ended == _transformers(torch_model, PROMPTS[1], eos_token_id=eos, **theirs)
    assert len(ended) <= N // 2 + 1
    assert len({token for row in drawn for token in row}) > 10


def test_greedy_tokens_are_those_of_transformers_in_another_model_with_token_types() -> None:
    torch_model, model = with_torch(
        2,
        {"use_token_types": True, "scan_layers": True},
        activation_function="relu",
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
        tie_word_embeddings=False,
    )
    roles = prompts_of(*map(len, PROMPTS), high=2, seed=1)
    expected = []
    for prompt, types in zip(PROMPTS, roles, strict=True):
        types[-1] = 1  # transformers gives it to all that follows
        expected.append(_transformers(torch_model, prompt, token_type_ids=torch.tensor([types])))
    how = make_rules(131, temperature=0, role=1)
    assert drawn_ids(_advance(model, how, filled(model, PROMPTS, N, roles)), how[1]) == expected
    assert _generate(model, how) != expected  # the prompts' roles matter


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share": "all", "embed_dim": 7, "scan_layers": True, "use_role_table": True},
        {"share": "attention", "n_groups": 2, "n_layer": 4, "embed_dim": 11, "tie_word_embeddings": False},
        {"share": "mlp", "use_token_types": True, "scale_attn_by_inverse_layer_idx": True, "scan_layers": True},
    ],
    ids=str,
)
def test_every_token_is_the_likeliest_of_the_model_without_a_cache(changes: dict[str, Any]) -> None:
    plain = random_model(**changes)
    model = for_decoding(*plain)
    roles = prompts_of(*map(len, PROMPTS), high=2, seed=1)
    how = make_rules(131, temperature=0, role=1)
    drawn = drawn_ids(_advance(model, how, filled(model, PROMPTS, N, roles)), how[1])
    expected = uncached_logits(plain, _joined(PROMPTS, drawn), [prompt + [1] * N for prompt in roles])
    for prompt, new, values in zip(PROMPTS, drawn, expected, strict=True):
        assert values[len(prompt) - 1 : -1].argmax(-1).tolist() == new
    assert len({token for new in drawn for token in new}) > 5


def test_in_bfloat16_every_token_is_nearly_the_likeliest(plain: Model) -> None:
    model = for_decoding(random_model(dtype="bfloat16")[0], plain[1])
    params = model[1]
    assert params["wte"]["weight"].dtype == params["h"]["1"]["attn"]["c_attn"]["bias"].dtype == jnp.bfloat16
    assert params["ln_f"]["weight"].dtype == params["h"]["0"]["ln_2"]["bias"].dtype == jnp.float32
    state = _advance(model, GREEDY, filled(model, PROMPTS, N))
    assert {cache.dtype for cache in jax.tree.leaves(state.caches)} == {jnp.dtype("bfloat16")}
    drawn = drawn_ids(state, GREEDY[1])
    for prompt, new, values in zip(PROMPTS, drawn, uncached_logits(plain, _joined(PROMPTS, drawn)), strict=True):
        before = values[len(prompt) - 1 : -1]
        missing = before.max(-1) - before[np.arange(N), new]
        assert missing.max() < 0.1 * (before.max() - before.min())


def test_the_seed_decides_and_other_rows_do_not(model: Model) -> None:
    drawn = _generate(model, SAMPLING, seed=7)
    assert _generate(model, SAMPLING, seed=7) == drawn
    assert all(a != b for a, b in zip(_generate(model, SAMPLING, seed=8), drawn, strict=True))
    # The same two rows in another batch, where they have other numbers.
    shifted = _generate(model, SAMPLING, [*PROMPTS[2:], *prompts_of(5, LONGEST, seed=9)], seed=7, first_row=2)
    assert shifted[:2] == drawn[2:]
    assert _generate(model, SAMPLING, PROMPTS[1:2], seed=7, first_row=1) == drawn[1:2]
    same = _generate(model, SAMPLING, PROMPTS[1:2] * 4, seed=7)
    assert same[1] == drawn[1]
    assert len({tuple(row) for row in same}) == 4


def test_all_that_may_be_drawn_is_drawn(plain: Model, model: Model) -> None:
    drawn = _generate(model, make_rules(131, top_k=3))
    ranks: set[int] = set()
    for prompt, new, values in zip(PROMPTS, drawn, uncached_logits(plain, _joined(PROMPTS, drawn)), strict=True):
        order = np.argsort(-values[len(prompt) - 1 : -1], axis=-1)
        ranks |= set((order == np.array(new)[:, None]).nonzero()[1].tolist())
    assert ranks == {0, 1, 2}


@pytest.mark.parametrize("how", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_drawing_in_pieces_is_drawing_at_once(model: Model, how: tuple[Modes, Rules]) -> None:
    expected = _generate(model, how, seed=3)
    state = filled(model, PROMPTS, N, seed=3)
    so_far = 0
    for n in (1, 3, 0, 7, N - 11):
        state = _advance(model, how, state, n)
        so_far += n
        assert int(state.at) == int(state.first) + so_far
        assert drawn_ids(state, how[1]) == [row[:so_far] for row in expected]


@pytest.mark.parametrize("how", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_a_state_that_is_cut_goes_on_like_a_new_one(model: Model, how: tuple[Modes, Rules]) -> None:
    kept, other = 5, prompts_of(4, 4, 4, 4, seed=9)
    state = _advance(model, how, filled(model, PROMPTS, N, seed=3))
    drawn = drawn_ids(state, how[1])
    # Back to the fifth drawn token, then four tokens that nobody drew.
    at = state.first + kept
    ids_BS = jax.lax.dynamic_update_slice_in_dim(state.ids_BS, np.array(other, np.int32), at, axis=1)
    cut = state._replace(ids_BS=ids_BS, at=at + 4, first=at + 4)
    cut = fill(*model, jax.tree.map(jnp.copy, cut), at, 32)
    prompts = [prompt + row[:kept] + more for prompt, row, more in zip(PROMPTS, drawn, other, strict=True)]
    left = N - kept - 4
    assert drawn_ids(_advance(model, how, cut, left), how[1]) == _generate(model, how, prompts, left, seed=3)
    # Back without another word: as before, since the cache holds all but the last token.
    again = state._replace(at=at)
    assert drawn_ids(_advance(model, how, again, N - kept), how[1]) == drawn


def test_chunks_at_offsets_fill_a_cache_as_one_does(model: Model) -> None:
    length, n = 89, 8
    prompts = prompts_of(*[length] * 4)

    def empty() -> State:
        ids_BS = jnp.zeros((4, 128), jnp.int32).at[:, :length].set(np.array(prompts, np.int32))
        return empty_state(model[0], 4, 128, 0)._replace(ids_BS=ids_BS, at=jnp.int32(length), first=jnp.int32(length))

    def known(state: State) -> list[np.ndarray]:
        return [np.asarray(leaf)[:, :, : length - 1] for leaf in jax.tree.leaves(state.caches)]

    once, pieces = fill(*model, empty(), jnp.int32(0), 96), empty()
    # The second chunk begins within the first; the third would reach beyond the cache, so it begins earlier.
    for at, size in ((0, 32), (20, 32), (50, 96)):
        pieces = fill(*model, pieces, jnp.int32(at), size)
    for ours, expected in zip(known(pieces), known(once), strict=True):
        assert np.abs(expected).max(-1).min() > 0
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    expected = _generate(model, GREEDY, prompts, n)
    assert [drawn_ids(_advance(model, GREEDY, state, n), GREEDY[1]) for state in (once, pieces)] == [expected] * 2


def _first_end(row: list[int], ends: list[list[int]]) -> int | None:
    """The shortest length at which the row ends with one of `ends`."""
    return next((n for n in range(1, len(row) + 1) if any(row[:n][-len(end) :] == end for end in ends)), None)


def test_rows_end_at_stop_sequences_and_eos_alone_and_are_filled(model: Model) -> None:
    free = _generate(model, SAMPLING, seed=5)  # greedy rows soon repeat themselves; draws don't change with the stops
    eos, stops = free[0][9], [free[1][6:8], free[2][2:6], free[1][20:21]]
    how = make_rules(131, **WARM, eos_id=eos, stops=stops)
    state = _advance(model, how, filled(model, PROMPTS, N, seed=5))
    lengths = [_first_end(row, [[eos], *stops]) for row in free]
    assert drawn_ids(state, how[1]) == [row[:length] for row, length in zip(free, lengths, strict=True)]
    assert len(set(lengths)) == 4  # one of them None
    assert np.asarray(state.done_B).tolist() == [length is not None for length in lengths]
    for row, length in zip(np.asarray(state.ids_BS)[:, int(state.first) : int(state.at)], lengths, strict=True):
        assert length is None or (row[length:] == FILLER).all()


def test_the_loop_stops_where_all_rows_are_over(model: Model) -> None:
    free = _generate(model, SAMPLING, PROMPTS[1:2] * 4, seed=5)
    stops = [free[0][:4], free[1][1:3], free[2][4:5], free[3][3:6]]
    lengths = [_first_end(row, stops) for row in free]
    how = make_rules(131, **WARM, stops=stops)
    state = _advance(model, how, filled(model, PROMPTS[1:2] * 4, N, seed=5))
    assert drawn_ids(state, how[1]) == [row[:length] for row, length in zip(free, lengths, strict=True)]
    assert int(state.at) - int(state.first) == max(length for length in lengths if length) <= 6
    assert int(_advance(model, how, state, 5).at) == int(state.at)


def test_a_stop_sequence_that_begins_in_the_prompt_does_not_count(model: Model) -> None:
    free = _generate(model, SAMPLING, seed=5)
    stops = [[*PROMPTS[1][-3:], free[1][0]], PROMPTS[1][-1:] + free[1][:2], [PROMPTS[3][-1], free[3][0]]]
    assert _generate(model, make_rules(131, **WARM, stops=stops), seed=5) == free
    stops[1] = free[1][:2]
    assert len(_generate(model, make_rules(131, **WARM, stops=stops), seed=5)[1]) == 2


def test_prompts_that_have_no_room_are_refused(model: Model) -> None:
    cfg, _ = model
    with pytest.raises(AssertionError, match=r"69.*29, 97"):
        set_up(cfg, prompts_of(3, LONGEST + 1), None, N, 0)
    with pytest.raises(AssertionError, match=r"\[3 0\]"):
        set_up(cfg, [[1, 2, 3], []], None, N, 0)


def test_buckets_are_few_and_little_too_long() -> None:
    lengths = np.arange(1, 4097)
    buckets = np.array([bucket(int(length)) for length in lengths])
    assert (buckets >= lengths).all()
    assert (np.diff(buckets) >= 0).all()
    assert all(bucket(int(length)) == length for length in set(buckets))
    assert (buckets - lengths < np.maximum(16, lengths / 4)).all()
    assert [bucket(length) for length in (1, 32, 33, 256, 257, 1023, 1024)] == [16, 32, 48, 256, 320, 1024, 1024]
    assert len(set(buckets[:1024])) <= 20
