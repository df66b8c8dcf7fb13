"""Models to talk to: folders of random weights, and an engine that says what it is told to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from small_tokenizer import trained
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import Limits
from jaxgpt.data.dialogue import FORMATS, Conversation, EncodedConversation
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.model_config import ModelConfig

POSITIONS = 97
_TEXT = "hello there, how are you? fine, and you? what about the weather? it is nice, and I like apples very much\n\n"


@lru_cache
def small_tokenizer(*added: str) -> Tokenizer:
    return trained([_TEXT] * 5).with_tokens(added)


def make_folder(
    folder: Path,
    format_name: str,
    roles: str = "none",
    seed: int = 0,
    positions: int = POSITIONS,
    endless: bool = False,
) -> Path:
    """A stock folder of random weights, also in biases and norms. roles: none, types (ids 0 and 1) or table.

    With a table the two rows after the vocabulary stand for the roles, and their logits are higher than all others.
    endless: the model never says end-of-text.
    """
    tokenizer = small_tokenizer(*FORMATS[format_name].special_tokens)
    vocab = tokenizer.vocab_size
    torch.manual_seed(seed)
    table = roles == "table"
    config = GPT2Config(
        vocab_size=vocab + 2 * table,
        n_positions=positions,
        n_embd=30,
        n_layer=3,
        n_head=5,
        n_inner=71,
        tie_word_embeddings=roles == "none",
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for param in model.parameters():
            param += 0.2 * torch.randn_like(param)
        # So that a tied table doesn't repeat its last token for ever, and roles change what is said.
        model.transformer.wpe.weight.normal_(std=1.5)
        model.transformer.wte.weight[[vocab, vocab + 1] if table else [0, 1]] *= 10 if roles != "none" else 1
        if table or endless:  # the last hidden state gets a component that never changes
            model.transformer.ln_f.weight[0], model.transformer.ln_f.bias[0] = 0, 2
        if table:
            model.lm_head.weight[vocab:, 0] = 50
        if endless:
            model.lm_head.weight[tokenizer.eos_token_id, 0] = -50
    model.save_pretrained(folder)
    tokenizer.save(folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {"dialogue_format": format_name, "use_token_types": roles == "types"}
    if table:
        content["role_token_ids"] = [vocab, vocab + 1]
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def make_folders(root: Path) -> dict[str, Path]:
    """A folder of each kind that engines tell apart; the name is that of its format, which is tags for `table`."""
    kinds = {"tags": "none", "sep": "types", "eos": "types", "table": "table"}
    return {
        name: make_folder(root / name, "tags" if name == "table" else name, roles, seed)
        for seed, (name, roles) in enumerate(kinds.items())
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """For PyTorch: threads of small products wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encoded(tokenizer: Tokenizer, format_name: str, *texts: str) -> EncodedConversation:
    """The prompt for the bot after these turns."""
    return FORMATS[format_name].prompt(Conversation.alternating(texts), 1, tokenizer)


class Scripted:
    """An engine that says these texts one after the other, each with the end of a turn, and knows no likelihoods.

    seen: the prompts as text; asked: (decoding, limits) of each. A reply `None` fails half way as Ctrl-C does.
    """

    def __init__(self, *replies: str | None, format_name: str = "tags", positions: int = 200):
        self.format = FORMATS[format_name]
        self.tokenizer = small_tokenizer(*self.format.special_tokens)
        self.cfg = ModelConfig(vocab_size=self.tokenizer.vocab_size, n_positions=positions)
        self.replies = list(replies)
        self.seen: list[str] = []
        self.asked: list[tuple[Decoding, Limits]] = []
        self.closed = 0

    def _next(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> list[int] | None:
        self.seen.append(self.tokenizer.decode(prompt.ids.tolist()))
        self.asked.append((decoding, limits))
        text = self.replies.pop(0)
        return None if text is None else [*self.tokenizer.encode(text), *limits.stop_ids]

    def stream(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> Iterator[int]:
        ids = self._next(prompt, decoding, limits)
        try:
            if ids is None:
                yield from self.tokenizer.encode("half")
                raise KeyboardInterrupt
            yield from ids
        finally:
            self.closed += 1

    def draw(self, prompt: EncodedConversation, n: int, decoding: Decoding, limits: Limits) -> list[list[int]]:
        return [ids for _ in range(n) if (ids := self._next(prompt, decoding, limits)) is not None]

    def mean_log_likelihood(self, conversations: list[EncodedConversation]) -> list[float]:
        """Higher the fewer tokens count."""
        return [-float(np.sum(one.weights > 0)) for one in conversations]
