"""The model against Hugging Face's GPT2LMHeadModel, and properties that hold without a reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf import hidden_states, init_params, logits, model_config, params_of, relative_error, torch_model
from jax.flatten_util import ravel_pytree

from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.model.loss import weighted_nll
from jaxgpt.model_config import ModelConfig

B, T = 2, 19


def _ids(seed: int, *shape: int, high: int = 131) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.int32)


def _mean_nll(cfg: ModelConfig, params, input_ids, **inputs):
    """The loss as training computes it, over the next tokens of `input_ids`."""
    hidden = hidden_states(cfg, params, input_ids, **inputs)[:, :-1].reshape(-1, cfg.n_embd)
    targets = jnp.asarray(input_ids[:, 1:].reshape(-1))
    return weighted_nll(hidden, params["wte"]["weight"], targets, jnp.ones(targets.shape), cfg.vocab_size) / len(
        targets
    )


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
@pytest.mark.parametrize("token_types", [False, True])
def test_logits_loss_and_gradients_equal_hugging_face(activation: str, token_types: bool) -> None:
    theirs = torch_model(activation_function=activation)
    cfg = model_config(activation_function=activation, use_token_types=token_types)
    params = params_of(theirs, cfg)
    ids, roles = _ids(1, B, T), _ids(2, B, T, high=2)

    long_ids = torch.from_numpy(ids).long()
    types = {"token_type_ids": torch.from_numpy(roles).long()} if token_types else {}
    output = theirs(long_ids, labels=long_ids, **types)
    output.loss.backward()

    assert relative_error(logits(cfg, params, ids, roles_BT=roles), output.logits.detach()) < 1e-5
    loss, grads = jax.jit(jax.value_and_grad(lambda params: _mean_nll(cfg, params, ids, roles_BT=roles)))(params)
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)

    ours = to_hf_tensors(grads, cfg)
    # A reference of Hugging Face's own: its key biases have no gradient but rounding, so the scale is the tensor's.
    for name, param in theirs.named_parameters():
        assert relative_error(ours.pop(name), param.grad) < 1e-5, name
    assert not ours


def test_roles_are_ignored_without_token_types() -> None:
    cfg = model_config()
    params = init_params(cfg, 0)
    ids = _ids(1, B, T)
    np.testing.assert_array_equal(
        logits(cfg, params, ids, roles_BT=_ids(2, B, T, high=2)), logits(cfg, params, ids, roles_BT=None)
    )


def test_a_logit_depends_on_exactly_the_tokens_before_it_and_its_own() -> None:
    cfg = model_config(n_positions=7, n_layer=2)
    params = params_of(torch_model(n_positions=7, n_layer=2), cfg)
    ids = np.arange(7, dtype=np.int32)[None]  # every position reads its own row of the table

    def summed_logits(table):
        # The head is the table as well: only the rows that the embedding reads are made variables.
        changed = {**params, "wte": {"weight": table}}
        hidden = hidden_states(cfg, changed, ids)[0]
        return (hidden @ params["wte"]["weight"].T).sum(-1)

    jacobian = jax.jit(jax.jacobian(summed_logits))(params["wte"]["weight"])[:, :7]  # (t, s, D)
    reaches = np.abs(jacobian).max(-1)
    before = np.tril(np.ones((7, 7), bool))
    assert (reaches[before] > 1e-4).all()
    assert (reaches[~before] == 0).all()


def test_packed_conversations_have_the_logits_of_each_alone() -> None:
    cfg = model_config(use_token_types=True)
    params = params_of(torch_model(), cfg)
    first, second = _ids(3, 1, 8), _ids(4, 1, 11)
    roles = _ids(5, 1, 19, high=2)
    packed = logits(
        cfg,
        params,
        np.concatenate([first, second], axis=1),
        positions_BT=np.concatenate([np.arange(8), np.arange(11)])[None],
        segments_BT=np.repeat([1, 2], [8, 11])[None],
        roles_BT=roles,
    )
    assert relative_error(packed[:, :8], logits(cfg, params, first, roles_BT=roles[:, :8])) < 1e-5
    assert relative_error(packed[:, 8:], logits(cfg, params, second, roles_BT=roles[:, 8:])) < 1e-5


def test_padding_rows_of_the_table_get_no_logit_no_probability_and_no_gradient() -> None:
    cfg = model_config()
    params = params_of(torch_model(), cfg)
    assert params["wte"]["weight"].shape == (256, 30)
    ids = _ids(1, B, T)
    assert logits(cfg, params, ids).shape == (B, T, 131)

    # Rows that would take all the probability if they counted.
    loud = {**params, "wte": {"weight": jnp.asarray(params["wte"]["weight"]).at[131:].set(1e3)}}
    loss, grads = jax.jit(jax.value_and_grad(lambda params: _mean_nll(cfg, params, ids)))(loud)
    assert loss == pytest.approx(float(_mean_nll(cfg, params, ids)), rel=1e-6)
    table_grad = np.asarray(grads["wte"]["weight"])
    assert (table_grad[131:] == 0).all()
    assert np.abs(table_grad[:131]).max(-1).min() > 0


def test_bfloat16_stays_close_to_float32_and_keeps_float32_where_promised() -> None:
    cfg, half = model_config(), model_config(dtype="bfloat16")
    initial = jax.eval_shape(lambda: init_params(half, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    params = params_of(torch_model(), cfg)
    ids = _ids(1, B, T)
    assert hidden_states(half, params, ids).dtype == jnp.bfloat16
    assert logits(half, params, ids).dtype == jnp.float32
    assert hidden_states(cfg, params, ids).dtype == jnp.float32
    error = relative_error(logits(half, params, ids), logits(cfg, params, ids))
    assert 1e-5 < error < 5e-2  # it is not float32, and only rounding apart
    grads = jax.jit(jax.grad(lambda params: _mean_nll(half, params, ids)))(params)
    exact = jax.jit(jax.grad(lambda params: _mean_nll(cfg, params, ids)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    flat, flat_exact = (np.asarray(ravel_pytree(tree)[0]) for tree in (grads, exact))
    assert flat @ flat_exact / np.linalg.norm(flat) / np.linalg.norm(flat_exact) > 0.999


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 256, "n_inner": None}, {"n_layer": 1, "n_head": 3}])
def test_n_params_counts_the_real_parameters(changes: dict) -> None:
    theirs = torch_model(**changes)
    assert model_config(**changes).n_params == sum(param.numel() for param in theirs.parameters())
    cfg = model_config(**changes)
    assert sum(t.size for t in to_hf_tensors(init_params(cfg, 0), cfg).values()) == cfg.n_params


def test_the_default_is_gpt2_small() -> None:
    assert ModelConfig().n_params == 124_439_808


def test_initial_weights_have_the_documented_spread() -> None:
    cfg = ModelConfig(vocab_size=1001, n_positions=503, n_embd=64, n_layer=5, n_head=2, n_inner=301)
    params = init_params(cfg, 3)
    for name, tensor in to_hf_tensors(params, cfg).items():
        if name.endswith("bias"):
            assert (tensor == 0).all(), name
        elif "ln_" in name:
            assert (tensor == 1).all(), name
        else:
            expected = 0.02 / np.sqrt(2 * 5) if "c_proj" in name else 0.02
            assert tensor.std() == pytest.approx(expected, rel=0.06), name
            assert abs(tensor.mean()) < 0.06 * expected, name
    assert (np.asarray(params["wte"]["weight"])[1001:] == 0).all()


def test_initial_weights_are_a_function_of_the_seed() -> None:
    cfg = model_config()
    one, again, other = init_params(cfg, 7), init_params(cfg, 7), init_params(cfg, 8)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    for name, tensor in to_hf_tensors(one, cfg).items():
        if tensor.std() > 0:
            assert not np.array_equal(tensor, to_hf_tensors(other, cfg)[name]), name
    # Two layers of the same shape do not share their values.
    weights = [np.asarray(one["h"][layer]["mlp"]["c_fc"]["weight"]) for layer in ("0", "1", "2")]
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


def test_more_tokens_than_positions_are_refused() -> None:
    cfg = model_config()
    with pytest.raises(AssertionError, match="24 tokens, 23 positions"):
        logits(cfg, init_params(cfg, 0), _ids(0, 1, 24))
