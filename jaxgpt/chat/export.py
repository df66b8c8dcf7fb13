"""A run to a stock Hugging Face folder, and the proof that PyTorch computes the same from it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.chat.quiet import quiet_loading
from jaxgpt.data.atomic import replacing, write_text
from jaxgpt.data.dialogue import FORMATS
from jaxgpt.data.loader import Pages
from jaxgpt.errors import UserError
from jaxgpt.evaluate.models import Model
from jaxgpt.model.convert import CONFIG, WEIGHTS, to_hf_config, to_hf_tensors
from jaxgpt.model.gpt2 import logits

BOUND = 1e-3  # largest difference of two float32 logits that rounding explains
_SEQUENCES = 16


@dataclass(frozen=True)
class Parity:
    """One set of sequences through both models. tokens: predicted ones; max_abs_diff: of logits."""

    max_abs_diff: float
    jax_perplexity: float
    torch_perplexity: float
    tokens: int


def export(model: Model, output: Path) -> None:
    """Writes weights, config, tokenizer, generation config and chat template; config.json comes last."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not _is_export(output):
        raise UserError(f"--output {output} already holds something that is no exported model; give a new folder")
    from safetensors.numpy import save_file

    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).unlink(missing_ok=True)  # from here until the end the folder is no model
    with replacing(output / WEIGHTS) as temporary:
        save_file(to_hf_tensors(jax.device_get(model.params), model.cfg), temporary, metadata={"format": "pt"})
    _save_tokenizer(model, output)
    write_text(output / "generation_config.json", json.dumps(generation_config(model), indent=1) + "\n")
    config = to_hf_config(model.cfg, model.tokenizer.eos_token_id, model.dialogue_format, model.tokenizer.hash)
    write_text(output / CONFIG, json.dumps(config, indent=1) + "\n")


def _is_export(output: Path) -> bool:
    return (output / WEIGHTS).is_file() and (output / "generation_config.json").is_file()


def generation_config(model: Model) -> dict[str, Any]:
    """How the bot decodes by default: by sampling, since greedy decoding of dialogue repeats itself."""
    eos = model.tokenizer.eos_token_id
    stops = [eos]
    if model.dialogue_format:
        # The first token of a turn's end: transformers knows single stop tokens only. jaxgpt's own bot waits for all.
        stops.append(FORMATS[model.dialogue_format].stop_ids(model.tokenizer)[0])  # type: ignore[index]
    return {
        "bos_token_id": eos,
        "eos_token_id": sorted(set(stops)),
        "pad_token_id": eos,
        "do_sample": True,
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 0,
        "max_new_tokens": min(200, model.cfg.n_positions // 2),
    }


def _save_tokenizer(model: Model, output: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model.tokenizer.backend,
        bos_token=model.tokenizer.eos_token,
        eos_token=model.tokenizer.eos_token,
        unk_token=model.tokenizer.eos_token,
        pad_token=model.tokenizer.eos_token,
        model_max_length=model.cfg.n_positions,
        clean_up_tokenization_spaces=False,
    )
    if model.dialogue_format:
        tokenizer.chat_template = FORMATS[model.dialogue_format].chat_template()  # type: ignore[index]
    tokenizer.save_pretrained(output)


def conversations(pages: Pages) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Unpacked sequences (ids, roles) from the first rows of a split."""
    batch = pages.in_order(0, min(_SEQUENCES, pages.n_rows(shuffled=False)))
    for row in range(len(batch["input_ids"])):
        if "segments" not in batch:
            yield batch["input_ids"][row][batch["weights"][row] > 0], np.zeros(0, np.int32)
            continue
        for segment in range(1, int(batch["segments"][row].max()) + 1):
            here = batch["segments"][row] == segment
            yield batch["input_ids"][row][here], batch["roles"][row][here]


def random_sequences(model: Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids without meaning, for when a run's pages are gone."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        length = min(64, model.cfg.n_positions)
        yield rng.integers(0, model.cfg.vocab_size, length), rng.integers(0, 2, length)


def parity(model: Model, folder: Path, sequences: Iterator[tuple[np.ndarray, np.ndarray]]) -> Parity:
    """Loads `folder` in PyTorch through transformers and compares logits and perplexity on the sequences."""
    import torch
    from transformers import GPT2LMHeadModel

    quiet_loading()
    torch_model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    cfg = model.cfg

    run = jax.jit(lambda params, ids_BT, roles_BT: logits(cfg, params, ids_BT, roles_BT=roles_BT))
    params = jax.device_put(model.params)
    worst, nll_jax, nll_torch, tokens = 0.0, 0.0, 0.0, 0
    for ids, roles in sequences:
        if len(ids) < 2:
            continue
        length = len(ids)
        roles = roles if len(roles) else np.zeros(length, np.int32)
        # One length, one compilation; attention is causal, so what fills the end changes nothing before it.
        padded = -(-length // 128) * 128 if cfg.n_positions >= 128 else cfg.n_positions
        padded = min(padded, cfg.n_positions)
        fill = ((0, padded - length),)
        ours = np.asarray(run(params, np.pad(ids, fill)[None], np.pad(roles, fill)[None]))[0, :length]
        with torch.inference_mode():
            types = torch.tensor(roles[None].astype(np.int64)) if cfg.use_token_types else None
            theirs = torch_model(torch.tensor(ids[None].astype(np.int64)), token_type_ids=types).logits[0]
            target = torch.tensor(ids[1:].astype(np.int64))
            nll_torch += float(torch.nn.functional.cross_entropy(theirs[:-1].double(), target, reduction="sum"))
        worst = max(worst, float(np.abs(ours - theirs.numpy()).max()))
        log_probs = jax.nn.log_softmax(ours[:-1], axis=-1)
        nll_jax -= float(log_probs[np.arange(length - 1), ids[1:]].sum())
        tokens += length - 1
    if not tokens:
        raise UserError(f"{folder}: there is no sequence of two tokens to compare the models on; give other pages")
    return Parity(worst, float(np.exp(nll_jax / tokens)), float(np.exp(nll_torch / tokens)), tokens)
