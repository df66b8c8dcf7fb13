"""Dropout: its rate, its scale, and what its mask may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf import hidden_states, init_params, model_config

from jaxgpt.model import gpt2
from jaxgpt.model.dropout import dropout, row_keys, site_keys


def _keys(rows, seed: int = 5, step: int = 3) -> jax.Array:
    return row_keys(seed, jnp.int32(step), jnp.asarray(rows, jnp.int32))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_is_honoured_and_the_expectation_is_kept(rate: float) -> None:
    n = 40_000
    out = np.asarray(dropout(jnp.full((4, n), 3.0), rate, _keys(range(4))))
    deviation = np.sqrt(rate * (1 - rate) / n)
    for row in out:  # each row has its own key
        assert (row == 0).mean() == pytest.approx(rate, abs=5 * deviation)
        assert row.mean() == pytest.approx(3.0, abs=5 * 3 * deviation / (1 - rate))
    np.testing.assert_allclose(out[out != 0], 3.0 / (1 - rate), rtol=1e-6)


def test_without_keys_nothing_changes() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 7))
    assert dropout(x, 0.9, None) is x
    assert dropout(x, 0.0, _keys(range(3))) is x
    assert site_keys(None, 4) is None


def test_dtype_is_kept() -> None:
    assert dropout(jnp.ones((2, 5), jnp.bfloat16), 0.5, _keys(range(2))).dtype == jnp.bfloat16


def test_the_mask_follows_the_row_and_not_its_place() -> None:
    x = jnp.ones((8, 11, 13))
    whole = np.asarray(dropout(x, 0.5, _keys(range(8))))
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    np.testing.assert_array_equal(dropout(x, 0.5, _keys(order)), whole[order])
    for start in (0, 2, 4, 6):  # the same rows on four devices
        np.testing.assert_array_equal(dropout(x[:2], 0.5, _keys([start, start + 1])), whole[start : start + 2])


def test_rows_steps_seeds_and_sites_have_masks_of_their_own() -> None:
    x = jnp.ones((1, 512))
    masks = [
        dropout(x, 0.5, keys)
        for keys in (
            _keys([0]),
            _keys([1]),
            _keys([0], step=4),
            _keys([0], seed=6),
            site_keys(_keys([0]), 0),
            site_keys(_keys([0]), 1),
        )
    ]
    distinct = {np.asarray(mask).tobytes() for mask in masks}
    assert len(distinct) == len(masks)


def test_row_keys_of_a_run_never_repeat() -> None:
    keys = [jax.random.key_data(_keys(range(64), step=step)) for step in range(50)]
    assert len({key.tobytes() for key in np.concatenate(keys)}) == 64 * 50


@pytest.mark.parametrize("site", ["embd_pdrop", "attn_pdrop", "resid_pdrop"])
def test_each_rate_of_the_model_acts_alone_and_by_row(site: str) -> None:
    cfg = model_config(**{site: 0.3})
    params = init_params(cfg, 0)
    ids = np.random.default_rng(0).integers(0, 131, (4, 9), dtype=np.int32)
    plain = hidden_states(cfg, params, ids)
    dropped = np.asarray(hidden_states(cfg, params, ids, dropout_keys_B=_keys(range(4))))
    assert (np.abs(dropped - plain).max((1, 2)) > 1e-3).all()
    order = [2, 0, 3, 1]
    moved = hidden_states(cfg, params, ids[order], dropout_keys_B=_keys(order))
    np.testing.assert_allclose(moved, dropped[order], rtol=1e-5, atol=1e-5)


def test_sites_within_the_model_draw_different_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(x: jax.Array, rate: float, keys_B: jax.Array) -> jax.Array:
        if keys_B is not None:
            seen.append(np.asarray(jax.random.key_data(keys_B)).tobytes())
        return x

    monkeypatch.setattr("jaxgpt.model.gpt2.dropout", record)
    monkeypatch.setattr("jaxgpt.model.block.dropout", record)
    monkeypatch.setattr("jaxgpt.model.attention.dropout", record)
    cfg = model_config(resid_pdrop=0.1, attn_pdrop=0.1, embd_pdrop=0.1)
    params = init_params(cfg, 0)
    gpt2.hidden_states(cfg, params, np.zeros((2, 5), np.int32), dropout_keys_B=_keys(range(2)))
    assert len(seen) == 1 + 3 * cfg.n_layer  # embedding; probabilities, attention's end and MLP's end of each block
    assert len(set(seen)) == len(seen)
