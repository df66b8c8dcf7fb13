"""The model in PyTorch by transformers, in float32; what was computed for the last prompt is kept for the next."""

import copy
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import DynamicCache, GenerationConfig, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation import logits_process

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import BOT, Limits, describe, draw_seed
from jaxgpt.chat.quiet import quiet_loading
from jaxgpt.data.dialogue import EncodedConversation
from jaxgpt.errors import UserError
from jaxgpt.model.hf_config import ROLE_TOKEN_IDS


class TorchEngine:
    """See engine.Engine. Keys and values stay for the longest beginning that two prompts have in common."""

    def __init__(self, folder: Path):
        described = describe(folder)
        if not described.is_stock:
            raise UserError(
                f"{folder} has names or layouts that transformers does not know; bring it into a stock folder (jaxgpt "
                f"import {folder} --output DIR, then jaxgpt export DIR), or talk with --engine jax"
            )
        self.cfg, self.tokenizer, self.format = described.cfg, described.tokenizer, described.format
        # The token whose embedding is added for each role; None where the model knows no roles.
        of_table: list[int] | None = described.config.get(ROLE_TOKEN_IDS)
        self._role_tokens = [0, 1] if self.cfg.use_token_types else of_table
        quiet_loading()
        self._model = _load(folder).eval()
        self._model.reply_type = self._role_tokens and self._role_tokens[BOT]
        self._lock = threading.RLock()
        self._cache = DynamicCache(config=self._model.config)
        self._kept: list[tuple[int, int]] = []  # (id, type) of each position in the cache

    def stream(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> Iterator[int]:
        if decoding.num_beams > 1:
            yield from self._search(prompt, decoding, limits)
            return
        pick = _Picker(decoding, limits, len(prompt.ids))
        tokens, reply = self._typed(prompt), list[int]()
        while not limits.end(reply, self.tokenizer.eos_token_id):
            logits_1V = self._logits(self._feed(tokens, len(tokens) - 1))
            id_ = int(pick(torch.tensor([[id_ for id_, _ in tokens]]), logits_1V))
            reply.append(id_)
            tokens.append((id_, self._type(BOT)))
            yield id_

    @torch.inference_mode()
    def draw(self, prompt: EncodedConversation, n: int, decoding: Decoding, limits: Limits) -> list[list[int]]:
        pick = _Picker(decoding, limits, len(prompt.ids))
        tokens = self._typed(prompt)
        with self._lock:
            hidden_1D = self._feed(tokens, len(tokens) - 1)
            cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(n)
        logits_NV = self._logits(hidden_1D).expand(n, -1)
        ids_NT = torch.tensor([[id_ for id_, _ in tokens]]).expand(n, -1)
        replies: list[list[int]] = [[] for _ in range(n)]
        eos = self.tokenizer.eos_token_id
        while True:
            new_N = pick(ids_NT, logits_NV)
            for reply, id_ in zip(replies, new_N.tolist(), strict=True):
                if not limits.end(reply, eos):
                    reply.append(id_)
            if all(limits.end(reply, eos) for reply in replies):
                return replies
            ids_NT = torch.cat([ids_NT, new_N[:, None]], dim=1)
            types_N1 = torch.full((n, 1), self._type(BOT))
            logits_NV = self._logits(self._hidden(new_N[:, None], types_N1, cache)[:, -1])

    @torch.inference_mode()
    def mean_log_likelihood(self, conversations: list[EncodedConversation]) -> list[float]:
        means = []
        for one in conversations:
            weights_T = torch.tensor(one.weights[1:])
            where = weights_T.nonzero()[:, 0]
            begin = int(where[0])  # the position that predicts the first token that counts
            hidden_TD = self._feed(self._typed(one), begin)[where - begin]
            logs_TV = torch.log_softmax(self._logits(hidden_TD), dim=-1)
            logs_T = logs_TV[torch.arange(len(where)), torch.tensor(one.ids[1:])[where]]
            means.append(float((logs_T * weights_T[where]).sum() / weights_T.sum()))
        return means

    def _type(self, role: int) -> int:
        return self._role_tokens[role] if self._role_tokens else 0

    def _typed(self, encoded: EncodedConversation) -> list[tuple[int, int]]:
        return [(int(id_), self._type(int(role))) for id_, role in zip(encoded.ids, encoded.roles, strict=True)]

    @torch.inference_mode()
    def _feed(self, tokens: list[tuple[int, int]], begin: int) -> torch.Tensor:
        """Last hidden states (len(tokens) - begin, D) of positions from `begin` on; what is in the cache is not redone.

        Afterwards the cache holds exactly `tokens`.
        """
        with self._lock:
            kept, self._kept = self._kept, []  # a pass that is interrupted leaves the cache in pieces
            common = next((n for n, (a, b) in enumerate(zip(kept, tokens, strict=False)) if a != b), len(kept))
            common = min(common, begin, len(kept))
            if common == 0:
                self._cache = DynamicCache(config=self._model.config)
            elif common < len(kept):
                self._cache.crop(common - len(kept))
            ids_1T, types_1T = torch.tensor(tokens[common:]).T[:, None]
            hidden_TD = self._hidden(ids_1T, types_1T, self._cache)[0]
            self._kept = list(tokens)
            return hidden_TD[begin - common :]

    def _hidden(self, ids_BT: torch.Tensor, types_BT: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        types = types_BT if self._role_tokens else None
        out = self._model.transformer(ids_BT, token_type_ids=types, past_key_values=cache, use_cache=True)
        return out.last_hidden_state

    @torch.inference_mode()
    def _logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """(N, V); the rows of the table beyond, which stand for roles, are nothing to say."""
        return self._model.lm_head(hidden_ND)[:, : self.cfg.vocab_size]

    @torch.inference_mode()
    def _search(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> list[int]:
        """Beam search by transformers, without the kept cache."""
        ids_1T, types_1T = torch.tensor(self._typed(prompt)).T[:, None]
        out = self._model.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            **({"token_type_ids": types_1T} if self._role_tokens else {}),
            do_sample=False,
            num_beams=decoding.num_beams,
            length_penalty=decoding.length_penalty,
            early_stopping=decoding.early_stopping,
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            max_new_tokens=limits.max_new_tokens,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
            begin_suppress_tokens=list(limits.not_first),
            suppress_tokens=list(range(self.cfg.vocab_size, self._model.config.vocab_size)) or None,
            stopping_criteria=StoppingCriteriaList([_Stop(limits.stop_ids)]),
        )
        reply: list[int] = []
        for id_ in out[0, len(prompt.ids) :].tolist():
            if limits.end(reply, self.tokenizer.eos_token_id):
                break  # what follows is padding
            reply.append(id_)
        return reply


def _load(folder: Path) -> "_Speaker":
    """In float32. UserError where weights are missing or damaged, which transformers would replace by random ones."""
    try:
        loaded: Any = _Speaker.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the weights can't be read ({reason}); export the run again") from None
    model, report = loaded
    if names := sorted(report["missing_keys"]):
        raise UserError(f"{folder}: the weights have no tensor {names[0]} ({len(names)} are missing); export it again")
    for name, param in model.named_parameters():
        if not torch.isfinite(param).all():
            raise UserError(f"{folder}: the tensor {name} has numbers that are not finite; the model is broken")
    model.generation_config = GenerationConfig()  # the folder's own defaults are not for us
    return model


class _Speaker(GPT2LMHeadModel):
    """A model whose generated tokens are the bot's; transformers gives them the type of the prompt's last token."""

    reply_type: int | None = None

    def prepare_inputs_for_generation(self, input_ids: torch.LongTensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if self.reply_type is not None and inputs["past_key_values"].get_seq_length():
            inputs["token_type_ids"] = torch.full_like(inputs["input_ids"], self.reply_type)
        return inputs


class _Stop(StoppingCriteria):
    """True for each row whose newest tokens are the ones that end a turn."""

    def __init__(self, stop_ids: Sequence[int]):
        self._stop = torch.tensor(stop_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.Tensor:
        return torch.all(input_ids[:, -len(self._stop) :] == self._stop, dim=1)


class _Picker:
    """Ids (B, T) so far and logits (B, V) of the next to the next ids (B,): filtered and drawn as transformers does."""

    def __init__(self, decoding: Decoding, limits: Limits, prompt_length: int):
        self._draws = decoding.draws
        self._generator = torch.Generator().manual_seed(draw_seed(decoding, limits))
        self._filters = logits_process.LogitsProcessorList()
        if decoding.repetition_penalty != 1:
            self._filters.append(logits_process.RepetitionPenaltyLogitsProcessor(float(decoding.repetition_penalty)))
        if decoding.no_repeat_ngram_size:
            self._filters.append(logits_process.NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
        self._filters.append(logits_process.SuppressTokensAtBeginLogitsProcessor(limits.not_first, prompt_length))
        if not decoding.draws:
            return
        self._filters.append(logits_process.TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_k:
            self._filters.append(logits_process.TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            self._filters.append(logits_process.TopPLogitsWarper(float(decoding.top_p)))
        if decoding.min_p:
            self._filters.append(logits_process.MinPLogitsWarper(float(decoding.min_p)))

    @torch.inference_mode()
    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        scores_BV = self._filters(ids_BT, logits_BV)  # type: ignore[arg-type]
        if not self._draws:
            return scores_BV.argmax(dim=-1)
        return torch.multinomial(scores_BV.softmax(dim=-1), 1, generator=self._generator)[:, 0]
