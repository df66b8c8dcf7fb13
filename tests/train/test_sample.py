"""The sample of a training run: what it may be."""

import jax
import numpy as np
import pytest
from tiny import MODEL

from jaxgpt.model.gpt2 import init_params, logits
from jaxgpt.train.sample import sample


@pytest.fixture(scope="module")
def params():
    # Weights ten times as large: a new model's distribution would be all but uniform.
    return jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, jax.jit(init_params, static_argnums=0)(MODEL, 0))


def test_sample_is_decided_by_the_seed_and_lies_in_the_vocabulary(params) -> None:
    one = sample(MODEL, params, [5, 7, 11], [0, 0, 0], 9, seed=1)
    assert one == sample(MODEL, params, [5, 7, 11], [0, 0, 0], 9, seed=1)
    others = [sample(MODEL, params, [5, 7, 11], [0, 0, 0], 9, seed=seed) for seed in range(2, 8)]
    assert any(other != one for other in others)
    for ids in [one, *others]:
        assert len(ids) == 9
        assert all(0 <= token < 131 for token in ids)


def test_every_new_token_lies_in_the_nucleus_of_what_stands_before_it(params) -> None:
    prompt, roles = [5, 7, 11], [0, 1, 0]
    new = sample(MODEL, params, prompt, roles, 9, seed=4)
    ids = np.array([prompt + new], np.int32)
    # The new tokens are the other speaker's.
    scores = jax.jit(logits, static_argnums=0)(MODEL, params, ids, roles_BT=np.array([roles + [1] * 9], np.int32))[0]
    for at in range(3, 12):
        probs = np.asarray(jax.nn.softmax(scores[at - 1] / 0.9), np.float64)
        likelier = probs[probs > probs[ids[0, at]]].sum()
        assert likelier < 0.9 + 1e-5


def test_sample_ends_where_the_positions_do_and_cuts_a_long_prompt(params) -> None:
    n = MODEL.n_positions
    assert len(sample(MODEL, params, [1, 2, 3], [0, 0, 0], 500, seed=0)) == n - 3
    long = list(np.arange(100) % 131)
    new = sample(MODEL, params, long, [0] * 100, 500, seed=0)
    kept = -(-n // 2)
    assert len(new) == n - kept
    assert new == sample(MODEL, params, long[-kept:], [0] * kept, 500, seed=0)
    assert sample(MODEL, params, [1], [0], 0, seed=0) == []
