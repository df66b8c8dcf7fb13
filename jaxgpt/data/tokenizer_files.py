"""The forms in which tokenizers lie on a disk, each as one of the library `tokenizers`.

Conversion is transformers' own, except for SentencePiece models, where it would change ids.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from jaxgpt.data.spm import read_sentencepiece
from jaxgpt.errors import UserError

_SENTENCEPIECE = (".model", ".spm")
# Classes of transformers whose ids are SentencePiece's own; others, T5's for one, move them or add to them.
_PLAIN_SENTENCEPIECE = (None, "BertGenerationTokenizer", "LlamaTokenizer", "LlamaTokenizerFast")
_FORMS = "tokenizer.json, a SentencePiece *.model, vocab.json with merges.txt, or vocab.txt"


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a file (tokenizer.json or a SentencePiece model) or in a folder of any form.

    UserError where there is none; the libraries raise exceptions of their own for files that are broken.
    """
    if path.is_file():
        return read_sentencepiece(path) if path.suffix in _SENTENCEPIECE else tokenizers.Tokenizer.from_file(str(path))
    if (path / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    config = _json(path / "tokenizer_config.json")
    found = sorted(file for file in path.iterdir() if file.suffix in _SENTENCEPIECE)
    if found:
        names, of_class = ", ".join(file.name for file in found), config.get("tokenizer_class")
        if len(found) > 1:
            raise UserError(
                f"{path} has no tokenizer.json and several SentencePiece models ({names}); name one of them"
            )
        if of_class not in _PLAIN_SENTENCEPIECE:
            raise UserError(
                f"{path} has no tokenizer.json, and {of_class} gives other ids than its {names}; save its fast form "
                f"there with transformers, or give {found[0]} for the model's own ids"
            )
        return _with_added(read_sentencepiece(found[0]), path, config)
    return _by_transformers(path, config)


def _by_transformers(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    names = {file.name for file in path.iterdir()}
    described = "tokenizer_class" in config or "config.json" in names
    if not (described or {"vocab.json", "merges.txt"} <= names or "vocab.txt" in names):
        held = f"it holds {', '.join(sorted(names)[:8])}" if names else "it is empty"
        raise UserError(f"{path} has no tokenizer.json; {held}: save a tokenizer there ({_FORMS}), or use gpt2")

    from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer

    plain = BertTokenizer if "vocab.txt" in names else GPT2Tokenizer
    loaded = (AutoTokenizer if described else plain).from_pretrained(str(path), local_files_only=True)
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UserError(
            f"{path} has no tokenizer.json, and {type(loaded).__name__} is Python code without a fast form; "
            f"save one of {_FORMS} there"
        )
    return backend


def _with_added(backend: tokenizers.Tokenizer, path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokens that a folder adds to its SentencePiece model, under the ids that it gives them."""
    added = _json(path / "added_tokens.json")
    added |= {token["content"]: int(number) for number, token in config.get("added_tokens_decoder", {}).items()}
    for content, number in sorted(added.items(), key=lambda item: item[1]):
        backend.add_special_tokens([content])
        if (got := backend.token_to_id(content)) != number:
            raise UserError(
                f"{path} adds the token {content!r} as id {number}, but its model leads to {got}; "
                "save the tokenizer as tokenizer.json"
            )
    return backend


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
