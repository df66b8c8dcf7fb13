"""A model to a stock Hugging Face folder: weights, tokenizer, chat template, generation config and model card."""

import json
from pathlib import Path
from typing import Any

import jax

from jaxgpt.chat.card import MARK, model_card
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.provenance import provenance
from jaxgpt.data.atomic import is_empty, remove_partial, write_text
from jaxgpt.data.dialogue import format_of
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.fold import stock
from jaxgpt.model.hf_config import FILE as CONFIG
from jaxgpt.model.hf_config import ROLE_TOKEN_IDS, ROLE_TOKENS, to_hf_config
from jaxgpt.model.write import MAX_SHARD_BYTES, Dtype, check_values, check_weights, write_weights
from jaxgpt.train.models import Model

CARD = "README.md"


def export(
    model: Model,
    output: Path,
    dtype: Dtype = "float32",
    pytorch_bin: bool = False,
    source: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the folder, config.json last, and reads the weights back.

    source: what the model was loaded from; a run tells the model card where the model comes from.
    UserError, with nothing touched, where `output` is the source or holds something that is no export, and where
    the weights have values that `dtype` can't hold.
    """
    check_output(output, source)
    cfg, tensors = stock(model.cfg, jax.device_get(model.params))
    check_values(tensors, dtype)
    output.mkdir(parents=True, exist_ok=True)
    remove_partial(output)
    # The card tells an unfinished export from another folder, so it comes before the old config.json goes.
    write_text(output / CARD, model_card(model, cfg, dtype, provenance(source, model.step), output.name))
    (output / CONFIG).unlink(missing_ok=True)  # from here until the end the folder is no model
    write_weights(output, tensors, dtype, pytorch_bin, max_shard_bytes)
    check_weights(output, tensors, dtype)
    role_ids = [cfg.vocab_size - 2, cfg.vocab_size - 1] if model.cfg.use_role_table else []
    _save_tokenizer(model, role_ids, output)
    write_text(output / "generation_config.json", _json(generation_config(model, role_ids)))
    config = to_hf_config(cfg, model.tokenizer.eos_token_id, model.dialogue_format, model.tokenizer.hash)
    config |= {"dtype": dtype} | ({ROLE_TOKEN_IDS: role_ids} if role_ids else {})
    write_text(output / CONFIG, _json(config))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def check_output(output: Path, source: Path | None) -> None:
    """UserError where an export to `output` would destroy something."""
    if source is not None and source.exists():  # a hub name may be that of a new folder
        holding = source if source.is_dir() else source.parent
        if output.resolve() == holding.resolve():
            raise UserError(f"--output {output} holds the model itself; give a new folder")
    if output.exists() and not is_empty(output) and not _is_export(output):
        raise UserError(f"--output {output} already holds something that is no exported model; give a new folder")


def _is_export(output: Path) -> bool:
    """Whether `export` made the folder, or was killed while it did."""
    if not output.is_dir():
        return False
    try:
        if (output / CONFIG).is_file():
            content = json.loads((output / CONFIG).read_text(encoding="utf-8"))
            return isinstance(content, dict) and "tokenizer_hash" in content
        return (output / CARD).is_file() and MARK in (output / CARD).read_text(encoding="utf-8")
    except ValueError:  # neither JSON nor UTF-8 that we wrote
        return False


def withdraw(output: Path) -> None:
    """Makes an export that PyTorch computes otherwise no model any more; the next one may take its folder."""
    (output / CONFIG).unlink()


def generation_config(model: Model, role_ids: list[int]) -> dict[str, Any]:
    """How the bot decodes by default: by sampling, since greedy decoding of dialogue repeats itself."""
    decoding, eos = Decoding(), model.tokenizer.eos_token_id
    stops = [eos]
    if dialogue := format_of(model.dialogue_format):
        # The first token of a turn's end: transformers knows single stop tokens only. jaxgpt's own bot waits for all.
        stops.append(dialogue.stop_ids(model.tokenizer)[0])
    return {
        "bos_token_id": eos,
        "eos_token_id": sorted(set(stops)),
        "pad_token_id": eos,
        "do_sample": True,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "max_new_tokens": decoding.longest(model.cfg.n_positions),
        **({"suppress_tokens": role_ids} if role_ids else {}),
    }


def _save_tokenizer(model: Model, role_ids: list[int], output: Path) -> None:
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import CHAT_TEMPLATE_FILE

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_with_roles(model.tokenizer, role_ids).backend,
        bos_token=model.tokenizer.eos_token,
        eos_token=model.tokenizer.eos_token,
        unk_token=model.tokenizer.eos_token,
        pad_token=model.tokenizer.eos_token,
        model_max_length=model.cfg.n_positions,
        clean_up_tokenization_spaces=False,
    )
    if dialogue := format_of(model.dialogue_format):
        tokenizer.chat_template = dialogue.chat_template()
    (output / CHAT_TEMPLATE_FILE).unlink(missing_ok=True)  # of an earlier model, which may have had another format
    tokenizer.save_pretrained(output)


def _with_roles(tokenizer: Tokenizer, role_ids: list[int]) -> Tokenizer:
    """With a special token for each row that a role table became; ids that the tokenizer leaves out get one as well."""
    if not role_ids:
        return tokenizer
    unused = [f"<|unused{id_}|>" for id_ in range(tokenizer.vocab_size, role_ids[0])]
    extended = tokenizer.with_tokens([*unused, *ROLE_TOKENS])
    found = [extended.token_id(token) for token in ROLE_TOKENS]
    if found != role_ids:
        raise UserError(
            f"tokenizer {tokenizer.name} gives {' and '.join(ROLE_TOKENS)} the ids {found}, the model has {role_ids}; "
            "it must know no tokens of these names, and leave no ids out"
        )
    return extended
