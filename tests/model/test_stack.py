"""Shared, factorised, scanned and rematerialised models against the plain one that computes the same."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf import init_params, logits, model_config, relative_error

from jaxgpt.errors import UserError
from jaxgpt.model import gpt2
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.model.loss import weighted_nll
from jaxgpt.model.stack import Params, owner, owners, stacked, unrolled
from jaxgpt.model_config import ModelConfig

B, T = 2, 19
IDS = np.random.default_rng(0).integers(0, 131, (B, T), dtype=np.int32)
ROLES = np.random.default_rng(1).integers(0, 2, (B, T), dtype=np.int32)


def _perturbed(cfg: ModelConfig) -> Params:
    """Every parameter random, also biases and norms."""
    params = init_params(cfg, 0)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def _loss_and_grads(cfg: ModelConfig, params: Params, **inputs: Any) -> Any:
    def loss(params: Params) -> jax.Array:
        hidden = gpt2.hidden_states(cfg, params, IDS, **inputs)[:, :-1].reshape(-1, cfg.table_width)
        targets = jnp.asarray(IDS[:, 1:].reshape(-1))
        return weighted_nll(hidden, gpt2.output_table(params), targets, jnp.ones(targets.shape), cfg.vocab_size)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("share", ["all", "attention", "mlp"])
def test_sharing_is_a_plain_model_whose_layers_have_equal_weights(share: str, n_groups: int) -> None:
    cfg = model_config(n_layer=6, share=share, n_groups=n_groups)
    params = _perturbed(cfg)
    plain = model_config(n_layer=6)
    size = 6 // n_groups
    layers: Params = {}
    for layer in range(6):
        first = str(layer // size * size)
        attention = params["h"][first if share in ("all", "attention") else str(layer)]
        mlp = params["h"][first if share in ("all", "mlp") else str(layer)]
        layers[str(layer)] = {name: (attention if name in ("ln_1", "attn") else mlp)[name] for name in mlp | attention}
    same = {**params, "h": layers}
    assert relative_error(logits(cfg, params, IDS), logits(plain, same, IDS)) < 1e-6

    loss, grads = _loss_and_grads(cfg, params)
    plain_loss, plain_grads = _loss_and_grads(plain, same)
    assert loss == pytest.approx(float(plain_loss), rel=1e-6)
    # The gradient of what is shared is the sum over the layers that use it.
    for part, name in (("attention", "attn"), ("mlp", "mlp")):
        for first in owners(cfg, part):
            users = [layer for layer in range(6) if owner(cfg, part, layer) == first]
            summed = jax.tree.map(lambda *leaves: sum(leaves), *(plain_grads["h"][str(n)][name] for n in users))
            for ours, theirs in zip(
                jax.tree.leaves(grads["h"][str(first)][name]), jax.tree.leaves(summed), strict=True
            ):
                assert relative_error(ours, theirs) < 1e-4


def test_factorised_tables_go_through_their_dense_layers() -> None:
    cfg = model_config(embed_dim=7, use_role_table=True)
    params = _perturbed(cfg)
    assert params["wte"]["weight"].shape == (256, 7)
    assert params["wpe"]["weight"].shape == (23, 7)
    assert params["wre"]["weight"].shape == (2, 7)
    # The same by hand: a plain model of the products, and the way back outside of it.
    host = jax.tree.map(np.asarray, params)
    into, out = host["embed_in"], host["embed_out"]
    tables = {
        "wte": {"weight": host["wte"]["weight"] @ into["weight"]},
        "wpe": {"weight": host["wpe"]["weight"] @ into["weight"] + into["bias"]},
        "wre": {"weight": host["wre"]["weight"] @ into["weight"]},
    }
    plain = model_config(use_role_table=True)
    hidden = gpt2.hidden_states(plain, {**params, **tables}, IDS, roles_BT=ROLES)
    expected = (np.asarray(hidden) @ out["weight"] + out["bias"]) @ host["wte"]["weight"][:131].T
    assert relative_error(logits(cfg, params, IDS, roles_BT=ROLES), expected) < 1e-5


def test_roles_have_their_own_rows() -> None:
    cfg = model_config(use_role_table=True)
    params = _perturbed(cfg)
    alike = {**params, "wre": {"weight": jnp.zeros((2, 30))}}
    without = model_config()
    assert relative_error(logits(cfg, alike, IDS, roles_BT=ROLES), logits(without, alike, IDS)) < 1e-6
    assert relative_error(logits(cfg, params, IDS, roles_BT=ROLES), logits(without, alike, IDS)) > 1e-3


def test_an_untied_table_makes_the_logits_and_the_embedding_does_not() -> None:
    cfg = model_config(tie_word_embeddings=False)
    params = _perturbed(cfg)
    tied = logits(model_config(), {**params, "wte": params["wte"]}, IDS)
    hidden = gpt2.hidden_states(cfg, params, IDS)
    expected = np.asarray(hidden) @ np.asarray(params["lm_head"]["weight"])[:131].T
    assert relative_error(logits(cfg, params, IDS), expected) < 1e-5
    assert relative_error(tied, expected) > 1e-2


SHARED = [
    {},
    {"share": "all"},
    {"share": "all", "n_groups": 2},
    {"share": "attention", "n_groups": 2},
    {"share": "mlp"},
    {"scale_attn_by_inverse_layer_idx": True, "use_token_types": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHARED, ids=str)
def test_scanned_layers_compute_what_unrolled_ones_do(changes: dict) -> None:
    cfg = model_config(n_layer=4, resid_pdrop=0.1, attn_pdrop=0.2, embd_pdrop=0.1, **changes)
    scanned = replace(cfg, scan_layers=True)
    params = _perturbed(cfg)
    # Two ways to the same start.
    jax.tree.map(np.testing.assert_array_equal, stacked(cfg, init_params(cfg, 3)), init_params(scanned, 3))
    jax.tree.map(np.testing.assert_array_equal, unrolled(cfg, stacked(cfg, params)), params)
    keys_B = jax.random.split(jax.random.key(2), B)
    segments = np.repeat([[1, 2]], [8, 11], axis=1).repeat(B, axis=0)
    inputs = {"roles_BT": ROLES, "segments_BT": segments, "dropout_keys_B": keys_B}
    loss, grads = _loss_and_grads(cfg, params, **inputs)
    scanned_loss, scanned_grads = _loss_and_grads(scanned, stacked(cfg, params), **inputs)
    assert scanned_loss == pytest.approx(float(loss), rel=1e-6)
    for ours, theirs in zip(jax.tree.leaves(unrolled(cfg, scanned_grads)), jax.tree.leaves(grads), strict=True):
        assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * max(1.0, np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["full", "dots_saveable", "dots_with_no_batch_dims_saveable"])
def test_rematerialisation_changes_no_gradient_but_keeps_less(remat: str, scan: bool) -> None:
    cfg = model_config(n_layer=3, scan_layers=scan)
    params = _perturbed(cfg)
    loss, grads = _loss_and_grads(cfg, params)
    again, again_grads = _loss_and_grads(replace(cfg, remat=remat), params)
    assert again == pytest.approx(float(loss), rel=1e-6)
    for ours, theirs in zip(jax.tree.leaves(again_grads), jax.tree.leaves(grads), strict=True):
        assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * max(1.0, np.abs(theirs).max())

    def kept(cfg: ModelConfig) -> int:
        """Numbers that the forward pass hands to the backward pass."""
        _, backward = jax.eval_shape(lambda params: jax.vjp(lambda p: gpt2.hidden_states(cfg, p, IDS), params), params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(replace(cfg, remat=remat)) < 0.8 * kept(cfg)


@pytest.mark.parametrize(
    ("size", "params"), [("small", 13.85), ("medium", 19.43), ("large", 26.57), ("xl", 37.72)], ids=lambda v: str(v)
)
def test_albert_style_counts_are_the_published_ones(size: str, params: float) -> None:
    shapes = {"small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20), "xl": (1600, 48, 25)}
    n_embd, n_layer, n_head = shapes[size]
    cfg = ModelConfig(n_embd=n_embd, n_layer=n_layer, n_head=n_head, embed_dim=128, share="all")
    assert round(cfg.n_params / 1e6, 2) == params


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 7, "share": "all", "use_role_table": True},
        {"share": "attention", "n_groups": 2, "tie_word_embeddings": False},
        {"share": "mlp", "embed_dim": 11},
    ],
    ids=str,
)
def test_n_params_counts_the_real_parameters(changes: dict) -> None:
    cfg = model_config(n_layer=4, **changes)
    assert sum(t.size for t in to_hf_tensors(init_params(cfg, 0), cfg).values()) == cfg.n_params


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embed_dim": 31}, "embed_dim 31 is more than model.n_embd 30"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"share": "all", "n_groups": 2}, "n_layer 3 is not divisible by model.n_groups 2"),
        ({"n_groups": 3}, "n_groups is 3, but model.share is none"),
        ({"use_role_table": True, "use_token_types": True}, "choose one"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict, expected: str) -> None:
    with pytest.raises(UserError) as error:
        model_config(**changes)
    assert expected in str(error.value)
