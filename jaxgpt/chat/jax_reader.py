"""How likely conversations are under a model in JAX, be it a run, an export or any GPT-2."""

from functools import partial

import jax
import numpy as np

from jaxgpt.data.dialogue import DialogueFormat, EncodedConversation
from jaxgpt.decode.loop import bucket
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.model.likelihood import target_nll
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import Model


class JaxReader:
    """See engine.Reader. cfg, params: as the decode room wants them."""

    def __init__(self, model: Model, dialogue_format: DialogueFormat):
        self.tokenizer, self.format = model.tokenizer, dialogue_format
        self.cfg, self.params = for_decoding(model.cfg, model.params)

    def mean_log_likelihood(self, conversations: list[EncodedConversation]) -> list[float]:
        width = min(bucket(max(len(one.ids) for one in conversations)), self.cfg.n_positions)

        def padded(name: str, dtype: type) -> np.ndarray:
            return np.stack([np.pad(getattr(one, name), (0, width - len(one.ids))) for one in conversations]).astype(
                dtype
            )

        ids_BT, weights_BT = padded("ids", np.int32), padded("weights", np.float32)[:, 1:]
        nll_BT = _nll(self.cfg, self.params, ids_BT, padded("roles", np.int32))
        return (-(np.asarray(nll_BT) * weights_BT).sum(1) / weights_BT.sum(1)).tolist()


@partial(jax.jit, static_argnums=0)
def _nll(cfg: ModelConfig, params: Params, ids_BT: jax.Array, roles_BT: jax.Array) -> jax.Array:
    """(B, T - 1) nats of each token after the first, given those before it."""
    return target_nll(cfg, params, ids_BT[:, :-1], ids_BT[:, 1:], roles_BT=roles_BT[:, :-1])
