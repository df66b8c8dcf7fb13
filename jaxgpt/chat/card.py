"""README.md of an exported model: what it is, what it was trained on and how well it did, and how to talk to it."""

from typing import Any

import numpy as np
import yaml

from jaxgpt.chat.provenance import Provenance
from jaxgpt.data.dialogue import Conversation, DialogueFormat, format_of
from jaxgpt.data.manifest import Manifest
from jaxgpt.model.hf_config import ROLE_TOKENS
from jaxgpt.model.write import Dtype
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import Model

MARK = "This folder was written by `jaxgpt export`."
QUESTION = "Hello, how are you?"

_FORMATS = {
    "eos": "`<|endoftext|>` ends each turn",
    "tags": "each turn begins with `A:` or `B:` and ends with three newlines; the user is A, the model is B",
    "sep": "`<sep>` stands before the first turn and after each one",
}


def model_card(model: Model, exported: ModelConfig, dtype: Dtype, origin: Provenance | None, folder: str) -> str:
    """Markdown with YAML front matter. exported: of the stock model in the folder; folder: how the code names it."""
    tags = ["jaxgpt", "gpt2", *(["conversational"] if model.dialogue_format else [])]
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    name = origin.run.resolve().name if origin else folder
    sections = [
        f"# {name}\n\n{_what(model.cfg, exported, dtype)}\n\n{MARK}",
        "## Talking to it\n\n" + _use(model, exported, folder),
        *([_data(origin), _training(origin)] if origin and origin.step else [_source(origin)]),
        _limits(model),
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _what(cfg: ModelConfig, exported: ModelConfig, dtype: Dtype) -> str:
    lines = [
        f"A GPT-2 with {_millions(exported.n_params)} parameters in {dtype}: {exported.n_layer} layers of width "
        f"{exported.n_embd}, {exported.n_head} heads, {exported.n_positions:,} positions, a vocabulary of "
        f"{exported.vocab_size:,} tokens. It is a stock `GPT2LMHeadModel`."
    ]
    small = []
    if cfg.factorised:
        small.append(f"its embedding tables are {cfg.embed_dim} wide and factorised")
    if cfg.share != "none":
        parts = "all parameters" if cfg.share == "all" else f"the parameters of {cfg.share}"
        groups = f" within each of {cfg.n_groups} groups" if cfg.n_groups > 1 else ""
        small.append(f"its layers share {parts}{groups}")
    if small:
        lines.append(
            f"It was trained ALBERT-style with {_millions(cfg.n_params)} parameters: {' and '.join(small)}. Here the "
            "factors are multiplied out and what is shared is repeated; the logits are the same."
        )
    return "\n".join(lines)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count >= 1e6 else f"{count:,}"


def _use(model: Model, exported: ModelConfig, folder: str) -> str:
    dialogue = format_of(model.dialogue_format)
    load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})\n"
    )
    if dialogue is None:
        code = (
            f'{load}inputs = tokenizer("The ferry left an hour late", return_tensors="pt")\n'
            "output = model.generate(**inputs)\n"
            "print(tokenizer.decode(output[0], skip_special_tokens=True))"
        )
        return f"It continues text; it knows no turns.\n\n```python\n{code}\n```"
    roles = _roles(model, exported, dialogue)
    code = (
        f"{load}messages = [{{'role': 'user', 'content': {QUESTION!r}}}]\n"
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        f"{roles}"
        "output = model.generate(**inputs)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    return (
        f"In a terminal: `jaxgpt chat --model {folder}`, or from Python:\n\n```python\n{code}\n```\n\n"
        f"Dialogue format `{dialogue.name}`: {_FORMATS[dialogue.name]}. The chat template writes it; "
        "`generation_config.json` samples, since greedy replies repeat themselves, and stops at the first token of a "
        "turn's end." + _role_note(model, exported)
    )


def _roles(model: Model, exported: ModelConfig, dialogue: DialogueFormat) -> str:
    """Code that gives the tokens of one question and the reply their speakers."""
    first = _first_role_id(model.cfg, exported)
    if first is None:
        return ""
    prompt = dialogue.prompt(Conversation.alternating([QUESTION]), 1, model.tokenizer)
    # What is generated gets the role of the prompt's last token, so that one is always the model's.
    own = max(len(prompt.roles) - int(np.flatnonzero(prompt.roles == 0)[-1]) - 1, 1)
    return (
        f'roles = inputs["input_ids"] * 0 + {first}  # the user speaks …\n'
        f"roles[:, -{own}:] = {first + 1}  # … and the model replies\n"
        'inputs["token_type_ids"] = roles\n'
    )


def _first_role_id(cfg: ModelConfig, exported: ModelConfig) -> int | None:
    if cfg.use_role_table:
        return exported.vocab_size - 2
    return 0 if cfg.use_token_types else None


def _role_note(model: Model, exported: ModelConfig) -> str:
    first = _first_role_id(model.cfg, exported)
    if first is None:
        return ""
    note = f" The model was trained with the speaker of each token as `token_type_ids`: {first} user, {first + 1} model"
    if model.cfg.use_role_table:
        note += f" (the tokens `{'` and `'.join(ROLE_TOKENS)}`, which stand for nothing else)"
    return f"{note}. `jaxgpt chat` sets them for any number of turns."


def _source(origin: Provenance | None) -> str:
    source = origin and origin.config.get("init_from")
    return f"## Origin\n\nImported from `{source}`; it was not trained further." if source else ""


def _data(origin: Provenance) -> str:
    data = origin.config["data"]
    lines = [
        f"Pages `{data['path']}`, splits `{data['train_split']}` and `{data['valid_split']}` "
        f"(SHA-256 of their manifest `{origin.data_hash}`)."
    ]
    manifest = origin.manifest
    if manifest is not None:
        lines += ["", *_splits(manifest), "", *_sources(manifest), ""]
        lines.append(f"Tokenizer `{manifest.tokenizer}` (SHA-256 `{manifest.tokenizer_hash}`).")
        if manifest.loss_on:
            lines.append(f"The loss was on: {manifest.loss_on}.")
        lines += ["", "Built with:", "", f"    {manifest.command}"]
    return "## Data\n\n" + "\n".join(lines)


def _splits(manifest: Manifest) -> list[str]:
    things = "conversations" if manifest.kind == "dialogue" else "documents"
    rows = [
        f"| {name} | {split.documents:,} | {split.tokens:,} | {split.words:,} |"
        for name, split in manifest.splits.items()
    ]
    return [f"| split | {things} | tokens | words |", "|---|---|---|---|", *rows]


def _sources(manifest: Manifest) -> list[str]:
    rows = [
        f"| `{source['source']}` | {source.get('read', 0):,} | {source.get('kept', 0):,} |"
        for source in manifest.sources
    ]
    return ["| source | read | kept |", "|---|---|---|", *rows]


def _training(origin: Provenance) -> str:
    config = origin.config
    train, evaluation = config["train"], config["eval"]
    lines = [f"Step {origin.step:,} of {train['max_steps']:,}, {train['batch_size']} sequences a step."]
    if config.get("init_from"):
        lines.append(f"It began with the weights of `{config['init_from']}`.")
    if origin.valid_loss is not None:
        what = f"the first {evaluation['batches']} batches" if evaluation["batches"] else "the whole"
        tokenizer = f" of tokenizer `{origin.manifest.tokenizer}`" if origin.manifest else ""
        lines.append(
            f"Validation loss {origin.valid_loss:.4f} nats per token, perplexity {np.exp(origin.valid_loss):.2f} per "
            f"token{tokenizer}, on {what} of the split `{config['data']['valid_split']}`."
        )
    text = yaml.safe_dump(_without_places(config), sort_keys=False)
    return "## Training\n\n" + "\n".join(lines) + f"\n\n```yaml\n{text}```"


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the model; where files and logs go does not."""
    return {name: section for name, section in config.items() if name not in ("output", "log", "checkpoint")}


def _limits(model: Model) -> str:
    lines = [
        f"- It sees at most {model.cfg.n_positions:,} tokens at once.",
        "- It repeats what its training text says, true or not, kind or not. Nothing filters what it writes.",
        "- It states things that are wrong with the same ease as those that are right: do not rely on its facts.",
    ]
    if model.dialogue_format:
        lines.append("- It was trained on conversations as they are, not to follow instructions.")
    return "## Limits\n\n" + "\n".join(lines)
