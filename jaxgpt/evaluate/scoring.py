"""The negative log-likelihood of every token of given texts, by any model: the one thing all protocols share."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model.gpt2 import hidden_states, output_table
from jaxgpt.model.loss import token_scores
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.one_behind import one_behind
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.step import AXIS

_SHORTEST = 32  # tokens that shorter inputs are filled up to


def rows_at_once(length: int, n_devices: int, most: int | None) -> int:
    """Rows of `length` tokens that all devices take together: as many as keep them busy, or `most`, but one for each.

    A CPU never takes more tokens than its cache holds: more are slower.
    """
    on_cpu = jax.default_backend() == "cpu"
    fitting = max((1024 if on_cpu else 8192) // length, 1) * n_devices
    rows = min(most or fitting, fitting) if on_cpu else most or fitting
    return -(-rows // n_devices) * n_devices


class Text(NamedTuple):
    """ids (n,): tokens, of which those from number `first` (1 or more) on are predicted from all before them.

    roles (n,): the speaker of each token, where the model knows speakers.
    """

    ids: np.ndarray
    first: int = 1
    roles: np.ndarray | None = None


class Scores(NamedTuple):
    """Of a text's predicted tokens, (n - first,) each. nll: nats, float32; likeliest: whether no token is likelier."""

    nll: np.ndarray
    likeliest: np.ndarray


class Scorer(Protocol):
    """A model that scores texts. context: the most tokens that a text may have, the last of which is only predicted."""

    context: int

    def score(self, texts: Sequence[Text]) -> Iterator[tuple[int, Scores]]:
        """(number of a text, its scores), each text once, in any order."""
        ...


class JaxScorer:
    """A GPT-2 on all devices, in products that are as precise as cfg.dtype is.

    Texts of about the same length are scored together, filled up at their ends, which a causal model does not see. Only
    the hidden states that predict something meet the output table.

    batch_size: texts at once over all devices, at most; None chooses it by their length.
    """

    def __init__(self, cfg: ModelConfig, params: Params, batch_size: int | None = None):
        self.context = cfg.n_positions + 1
        self._parallel = Pmapped()
        self._params = self._parallel.replicate(params)
        self._batch_size = batch_size
        self._compiled = jax.pmap(
            partial(_exact_scores, cfg),
            axis_name=AXIS,
            in_axes=(None, 0, None),
            static_broadcasted_argnums=(2,),
            devices=self._parallel.devices,
        )

    def score(self, texts: Sequence[Text]) -> Iterator[tuple[int, Scores]]:
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, text in enumerate(texts):
            shapes.setdefault(self._shape(text), []).append(number)
        for batch in one_behind(self._under_way(texts, shapes)):
            yield from _unpacked(texts, batch)

    def _under_way(self, texts: Sequence[Text], shapes: dict[tuple[int, int], list[int]]) -> Iterator["_Batch"]:
        for (length, predicted), numbers in sorted(shapes.items(), reverse=True):
            size = rows_at_once(length, len(self._parallel.devices), self._batch_size)
            for begin in range(0, len(numbers), size):
                chosen = numbers[begin : begin + size]
                # Each number of rows is a program, so what is left at the end gets a power of two of them.
                rows = rows_at_once(length, len(self._parallel.devices), min(_power_of_two(len(chosen)), size))
                arrays = self._parallel.split(_arrays([texts[number] for number in chosen], rows, length))
                yield _Batch(chosen, length, self._compiled(self._params, arrays, predicted))

    def _shape(self, text: Text) -> tuple[int, int]:
        """Tokens of the input and how many of them predict something, both rounded up: each pair is a program."""
        length, predicted = len(text.ids) - 1, len(text.ids) - text.first
        assert 0 < predicted <= length < self.context, f"{length + 1} tokens from {text.first} on"
        rounded = min(max(_power_of_two(length), _SHORTEST), self.context - 1)
        return rounded, min(max(_power_of_two(predicted), _SHORTEST), rounded)


class _Batch(NamedTuple):
    """Texts under way. numbers: of the rows' texts; length: of their inputs, filled up; found: of `_scores`."""

    numbers: list[int]
    length: int
    found: tuple[jax.Array, jax.Array]


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _arrays(texts: list[Text], rows: int, length: int) -> dict[str, np.ndarray]:
    names = ("input_ids", "targets", *(("roles",) if texts[0].roles is not None else ()))
    batch: dict[str, np.ndarray] = {name: np.zeros((rows, length), np.int32) for name in names}
    batch["first"] = np.zeros(rows, np.int32)
    for row, text in enumerate(texts):
        n = len(text.ids) - 1
        batch["input_ids"][row, :n], batch["targets"][row, :n] = text.ids[:-1], text.ids[1:]
        batch["first"][row] = text.first - 1
        if text.roles is not None:
            batch["roles"][row, :n] = text.roles[:-1]
    return batch


def _exact_scores(*arguments: Any) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        return _scores(*arguments)


def _scores(
    cfg: ModelConfig, params: Params, batch: dict[str, jax.Array], predicted: int
) -> tuple[jax.Array, jax.Array]:
    """nll and likeliest, both (B, predicted), of the positions from `first` (B,) on, or of the last ones."""
    hidden_BTE = hidden_states(cfg, params, batch["input_ids"], roles_BT=batch.get("roles"))
    # `predicted` is rounded up; where it would lead beyond the end, positions before the first are taken, too.
    begins_B = jnp.minimum(batch["first"], hidden_BTE.shape[1] - predicted)
    at_BS = begins_B[:, None] + jnp.arange(predicted)
    hidden_BSE = jnp.take_along_axis(hidden_BTE, at_BS[:, :, None], axis=1)
    targets_BS = jnp.take_along_axis(batch["targets"], at_BS, axis=1)
    nll_N, likeliest_N = token_scores(
        hidden_BSE.reshape(-1, cfg.table_width), output_table(params), targets_BS.reshape(-1), cfg.vocab_size
    )
    return nll_N.reshape(at_BS.shape), likeliest_N.reshape(at_BS.shape)


def _unpacked(texts: Sequence[Text], batch: _Batch) -> Iterator[tuple[int, Scores]]:
    nll, likeliest = (array.reshape(-1, array.shape[-1]) for array in jax.device_get(batch.found))
    for row, number in enumerate(batch.numbers):
        n, first = len(texts[number].ids) - 1, texts[number].first - 1
        before = first - min(first, batch.length - nll.shape[1])
        own = slice(before, before + n - first)
        yield number, Scores(nll[row, own], likeliest[row, own])
