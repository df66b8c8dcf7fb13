"""Each optimizer against its formula or PyTorch's, on a quadratic, in both layouts of layers, and taken up again."""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.model.gpt2 import init_params
from jaxgpt.model.stack import Params, in_layout_of, stacked
from jaxgpt.model_config import ModelConfig
from jaxgpt.optimizer_config import OptimizerConfig
from jaxgpt.train.optimizer import decay_mask, make_optimizer

NAMES = ("adamw", "adafactor", "lion", "muon")
MATRICES = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
SMALL = ModelConfig(vocab_size=131, n_positions=9, n_embd=8, n_head=2, n_layer=1)
# Wide enough that adafactor has row and column sums; both layers share one attention.
WIDE = ModelConfig(vocab_size=131, n_positions=9, n_embd=128, n_head=2, n_layer=2, n_inner=136, share="attention")


def _config(name: str, **changes) -> OptimizerConfig:
    return OptimizerConfig(name=name, **{"warmup_steps": 0, "max_grad_norm": 1e9, "weight_decay": 0.0, **changes})


@partial(jax.jit, static_argnums=0)
def _step(
    cfg: OptimizerConfig, learning_rate: jax.Array, grads: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    updates, state = make_optimizer(cfg, learning_rate).update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _init(cfg: OptimizerConfig, params: Params) -> optax.OptState:
    return jax.jit(make_optimizer(cfg, 0.0).init)(params)


@lru_cache
def _shapes(model: ModelConfig) -> Params:
    return jax.eval_shape(lambda: init_params(model, 0))


def _like(params: Params, seed: int, scale: float = 1.0) -> Params:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * random.normal(size=x.shape), jnp.float32), params)


def _equal(ours: object, theirs: object, rtol: float = 0.0, atol: float = 0.0) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert left.shape == right.shape, path
        np.testing.assert_allclose(left, right, rtol=rtol, atol=atol, err_msg=str(path))


def _one_matrix(name: str, shape: tuple[int, int]) -> Params:
    """A tree with a block's matrix and bias and an embedding table."""
    random = np.random.default_rng(0)
    block = {"c_fc": {"weight": random.normal(size=shape), "bias": random.normal(size=shape[1])}}
    tree = {"h": {"0": {"mlp": block}}, "wte": {"weight": random.normal(size=(5, shape[0]))}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def test_decay_mask_leaves_out_biases_and_layernorms() -> None:
    for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(_shapes(SMALL))):
        names = [entry.key for entry in path]
        undecayed = names[-1] == "bias" or any(name.startswith("ln_") for name in names)
        assert decayed is not undecayed, names


def test_steps_equal_pytorchs_adamw_with_clipping() -> None:
    cfg = _config("adamw", b1=0.8, b2=0.93, eps=1e-6, weight_decay=0.3, max_grad_norm=1.5)
    random = np.random.default_rng(0)
    start = {"weight": random.normal(size=(5, 7)), "bias": random.normal(size=(7,))}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}
    theirs = {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in start.items()}
    groups = [{"params": [theirs["weight"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.93), eps=1e-6)
    state, norms = _init(cfg, params), []
    for step in range(1, 11):
        grads = {name: random.normal(size=value.shape) * step / 10 for name, value in start.items()}
        rate = 0.05 / step
        params, state = _step(
            cfg, rate, {name: jnp.asarray(g, jnp.float32) for name, g in grads.items()}, state, params
        )
        for name, param in theirs.items():
            param.grad = torch.tensor(grads[name], dtype=torch.float32)
        norms.append(float(torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)))
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        for name, param in theirs.items():
            np.testing.assert_allclose(params[name], param.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert min(norms) < 1.5 < max(norms)  # some steps were clipped, some were not


def _lion(cfg: OptimizerConfig, grads: list[np.ndarray]) -> np.ndarray:
    """Chen et al. 2023, algorithm 2: the last direction."""
    momentum = np.zeros_like(grads[0])
    for grad in grads:
        direction = np.sign(cfg.b1 * momentum + (1 - cfg.b1) * grad)
        momentum = cfg.b2 * momentum + (1 - cfg.b2) * grad
    return direction


def _adafactor(cfg: OptimizerConfig, grads: list[np.ndarray]) -> np.ndarray:
    """Shazeer and Stern 2018, algorithms 4 and 5, without clipping; the decay as in Zhai et al. 2021."""
    row, column, whole, momentum = (0.0,) * 4
    for step, grad in enumerate(grads, 1):
        decay = min(1 - step**-0.8, cfg.b2)
        square = grad**2 + 1e-30
        row = decay * row + (1 - decay) * square.sum(-1)
        column = decay * column + (1 - decay) * square.sum(0)
        whole = decay * whole + (1 - decay) * square
        factored = grad.ndim == 2 and min(grad.shape) >= 128
        moment = np.outer(row, column) / row.sum() if factored else whole
        momentum = cfg.b1 * momentum + (1 - cfg.b1) * grad / np.sqrt(moment)
    return momentum / (1 - cfg.b1 ** len(grads))


def _adam(cfg: OptimizerConfig, grads: list[np.ndarray]) -> np.ndarray:
    first, second = 0.0, 0.0
    for grad in grads:
        first = cfg.b1 * first + (1 - cfg.b1) * grad
        second = cfg.b2 * second + (1 - cfg.b2) * grad**2
    steps = len(grads)
    return first / (1 - cfg.b1**steps) / (np.sqrt(second / (1 - cfg.b2**steps)) + cfg.eps)


def _muon(cfg: OptimizerConfig, grads: list[np.ndarray]) -> np.ndarray:
    """Newton and Schulz's iteration with Jordan's coefficients, on a momentum that looks one step ahead."""
    momentum = 0.0
    for grad in grads:
        momentum = cfg.b1 * momentum + (1 - cfg.b1) * grad
    steps = len(grads)
    x = cfg.b1 * momentum / (1 - cfg.b1 ** (steps + 1)) + (1 - cfg.b1) * grads[-1] / (1 - cfg.b1**steps)
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return 0.2 * max(x.shape) ** 0.5 * x


@pytest.mark.parametrize(
    ("cfg", "shape", "of_matrix", "of_others"),
    [
        (_config("lion", b1=0.7, b2=0.9), (6, 10), _lion, _lion),
        (_config("adafactor", b1=0.0, b2=0.5), (130, 140), _adafactor, _adafactor),
        (_config("adafactor", b1=0.8, b2=0.999), (6, 10), _adafactor, _adafactor),
        (_config("muon", b1=0.8, b2=0.9), (6, 10), _muon, _adam),
        (_config("muon", b1=0.9, b2=0.9), (10, 6), _muon, _adam),
    ],
    ids=["lion", "adafactor-factored", "adafactor-momentum", "muon-wide", "muon-tall"],
)
def test_five_steps_by_the_formula(cfg, shape, of_matrix, of_others) -> None:
    """With weight decay; learning rates differ from step to step."""
    cfg = replace(cfg, weight_decay=0.3)
    params = _one_matrix(cfg.name, shape)
    mask = jax.tree.leaves(decay_mask(params))
    state, history = _init(cfg, params), []
    for step, rate in enumerate((0.1, 0.2, 0.05, 0.3, 0.1)):
        grads = _like(params, step)
        history.append([np.asarray(g, np.float64) for g in jax.tree.leaves(grads)])
        new, state = _step(cfg, rate, grads, state, params)
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for index, (path, old) in enumerate(zip(paths, jax.tree.leaves(params), strict=True)):
            of_leaf = of_matrix if path[0].key == "h" and path[-1].key == "weight" else of_others
            direction = of_leaf(cfg, [grads[index] for grads in history])
            expected = np.asarray(old, np.float64) * (1 - rate * 0.3 * mask[index]) - rate * direction
            np.testing.assert_allclose(jax.tree.leaves(new)[index], expected, rtol=1e-4, atol=2e-5)
        params = new


def test_muon_makes_singular_values_alike_for_just_the_blocks_matrices() -> None:
    cfg, params = _config("muon"), _like(_shapes(SMALL), 9)
    moved, _ = _step(cfg, 1.0, _like(params, 1), _init(cfg, params), params)
    changes = jax.tree.map(lambda new, old: np.asarray(new - old), moved, params)
    for path, change in jax.tree_util.tree_leaves_with_path(changes):
        names = [key.key for key in path]
        if names[0] == "h" and ".".join(names[2:4]) in MATRICES and names[-1] == "weight":
            values = np.linalg.svd(change, compute_uv=False) / (0.2 * max(change.shape) ** 0.5)
            # One that was next to 0 would need more than five iterations.
            assert 0.6 < np.median(values) < values.max() < 1.3, names
            assert np.sqrt((change**2).mean()) == pytest.approx(0.2, rel=0.25), names  # as AdamW's often is
        else:
            # Adam's first step is the gradient's sign.
            np.testing.assert_allclose(np.abs(change), 1, rtol=1e-2, err_msg=str(names))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layers_in_a_stack_get_the_same_updates_and_states(name: str) -> None:
    cfg = _config(name, weight_decay=0.1, max_grad_norm=1.0)
    apart = _like(_shapes(WIDE), 9)
    stack = stacked(WIDE, apart)
    apart_state, stack_state = _init(cfg, apart), _init(cfg, stack)
    for step in range(3):
        grads = _like(apart, step)
        apart, apart_state = _step(cfg, 0.01, grads, apart_state, apart)
        stack, stack_state = _step(cfg, 0.01, stacked(WIDE, grads), stack_state, stack)
    _equal(in_layout_of(WIDE, (stack, stack_state)), (apart, apart_state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_quadratic_falls(name: str) -> None:
    """With the learning rate falling to 0, all parameters come near their targets."""
    cfg = _config(name, max_grad_norm=10.0)
    params = _like(_shapes(SMALL), 9)
    targets = jax.tree.map(lambda x, noise: x + noise, params, _like(params, 3, 0.5))

    def loss(params: Params) -> jax.Array:
        return sum(((x - y) ** 2).sum() for x, y in zip(*map(jax.tree.leaves, (params, targets)), strict=True))

    def step(carry: tuple, rate: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        return _step(cfg, rate, jax.grad(loss)(params), state, params), None

    n_steps = 200
    rates = 0.05 * (1 - jnp.arange(n_steps) / n_steps)
    (end, _), _ = jax.jit(partial(jax.lax.scan, step))((params, _init(cfg, params)), rates)
    assert loss(end) < 0.02 * loss(params)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_step_leaves_the_state_as_it_was(name: str) -> None:
    cfg, params = _config(name), _like(_shapes(SMALL), 0)

    @jax.jit
    def update(good: jax.Array, grads: Params, state: optax.OptState) -> optax.OptState:
        return make_optimizer(cfg, 0.01, good).update(grads, state, params)[1]

    good, bad = _like(params, 1), jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    state = _init(cfg, params)
    for grads, is_good in ((bad, False), (good, True), (bad, False)):
        new = update(jnp.asarray(is_good), grads, state)
        if not is_good:
            _equal(new, state)
        state = new
    _equal(state, update(jnp.asarray(True), good, _init(cfg, params)))


def test_adam_equals_optax() -> None:
    cfg, params = _config("adamw", b1=0.8, b2=0.9, eps=1e-3), _like(_shapes(SMALL), 0)
    theirs = optax.scale_by_adam(0.8, 0.9, 1e-3)
    state, their_state = _init(cfg, params), theirs.init(params)
    for seed in range(1, 4):
        grads = _like(params, seed)
        updates, state = jax.jit(make_optimizer(cfg, -1.0).update)(grads, state, params)
        their_updates, their_state = jax.jit(theirs.update)(grads, their_state)
        _equal(updates, their_updates, rtol=1e-5, atol=1e-6)
        _equal(state[1], their_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_taken_up_from_numpy_it_goes_on_bit_for_bit(name: str) -> None:
    cfg = _config(name, weight_decay=0.1, max_grad_norm=1.0)
    params = _like(_shapes(SMALL), 9)
    state = _init(cfg, params)
    for step in range(6):
        if step == 3:
            saved = jax.tree.map(np.array, (params, state))
        params, state = _step(cfg, 0.01 * (step + 1), _like(params, step), state, params)
    # A new process knows the structure from the shapes alone.
    shapes = _shapes(SMALL)
    template = (shapes, jax.eval_shape(make_optimizer(cfg, 0.0).init, shapes))
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(template)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(saved)
    ]
    again, again_state = jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(saved))
    for step in range(3, 6):
        again, again_state = _step(cfg, 0.01 * (step + 1), _like(params, step), again_state, again)
    _equal((again, again_state), (params, state))


@pytest.mark.parametrize("name", NAMES)
def test_the_state_knows_nothing_of_the_learning_rate(name: str) -> None:
    params = _shapes(SMALL)
    fixed = jax.eval_shape(make_optimizer(_config(name), 0.0).init, params)
    traced = jax.eval_shape(lambda rate, params: make_optimizer(_config(name), rate).init(params), 1.0, params)
    assert jax.tree.structure(fixed) == jax.tree.structure(traced)
    assert jax.tree.leaves(fixed) == jax.tree.leaves(traced)


@pytest.mark.parametrize(("name", "b1", "per_parameter"), [("adafactor", 0, 0), ("lion", 0.9, 1), ("adamw", 0.9, 2)])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_size_of_the_state(name: str, b1: float, per_parameter: float, scan_layers: bool) -> None:
    shapes = _shapes(replace(WIDE, n_positions=128, scan_layers=scan_layers))
    state = jax.eval_shape(make_optimizer(_config(name, b1=b1), 0.0).init, shapes)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, shapes)]
    assert sizes[0] / sizes[1] == pytest.approx(per_parameter, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_matrices_cut_up_over_devices_get_the_same_update(name: str) -> None:
    """The other optimizers work on single numbers."""
    cfg = _config(name, weight_decay=0.1, max_grad_norm=1.0)
    params = stacked(WIDE, _like(_shapes(WIDE), 9))
    mesh = Mesh(np.array(jax.devices()), ("shards",))

    def cut(x: jax.Array) -> jax.Array:
        axis = next((axis for axis, size in enumerate(x.shape) if size % 8 == 0), None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "shards")
        return jax.device_put(x, NamedSharding(mesh, spec))

    state = _init(cfg, params)
    whole, pieces = (params, state), jax.tree.map(cut, (params, state))
    for step in range(2):
        grads = _like(params, step)
        whole = _step(cfg, 0.01, grads, *whole[::-1])
        pieces = _step(cfg, 0.01, jax.tree.map(cut, grads), *pieces[::-1])
    _equal(pieces, whole, rtol=1e-4, atol=1e-5)
