"""A sample of what the model would say, for a look during training."""

from collections.abc import Sequence

from jaxgpt.decode.loop import drawn_ids, generate, set_up
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.decode.rules import make_rules
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig

TEMPERATURE, TOP_P = 0.9, 0.9


def sample(
    cfg: ModelConfig, params: Params, prompt_ids: Sequence[int], prompt_roles: Sequence[int], n_new: int, seed: int
) -> list[int]:
    """Up to `n_new` ids that continue the prompt, as far as the positions reach; temperature 0.9, top-p 0.9."""
    half = -cfg.n_positions // 2
    prompt_ids, prompt_roles = prompt_ids[half:], prompt_roles[half:]
    n_new = min(n_new, cfg.n_positions - len(prompt_ids))
    cfg, params = for_decoding(cfg, params)
    modes, rules = make_rules(cfg.vocab_size, temperature=TEMPERATURE, top_p=TOP_P, role=1)
    state = set_up(cfg, [prompt_ids], [prompt_roles], n_new, seed)
    return drawn_ids(generate(cfg, modes, params, rules, state, n_new, filler=0), rules)[0]
