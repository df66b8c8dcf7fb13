"""Replies to many conversations at once, as the bot would give them, in JAX."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.chat.decoding import Decoding, History
from jaxgpt.chat.engine import BOT, Limits, draw_seed
from jaxgpt.chat.jax_reader import JaxReader
from jaxgpt.chat.prompts import Prompt, Prompts
from jaxgpt.chat.rerank import Candidates, best_reply
from jaxgpt.chat.streaming import encodable
from jaxgpt.data.dialogue import DialogueFormat, Turn
from jaxgpt.decode.beam import beam_search
from jaxgpt.decode.loop import drawn_ids, generate, set_up
from jaxgpt.decode.rules import Modes, Rules, make_rules
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar
from jaxgpt.train.models import Model


class Answerer:
    """A model that answers, whatever it is: a run, an export or a GPT-2 from outside.

    candidates: how many replies are drawn for each context and how the best is chosen; None draws one
    batch_size: rows of the model at once; a context takes one for each candidate or beam
    UserError where the decoding does not fit the model or the reverse model, or that is of another kind.
    """

    def __init__(
        self,
        model: Model,
        dialogue_format: DialogueFormat,
        decoding: Decoding,
        candidates: Candidates | None = None,
        batch_size: int = 16,
    ):
        if batch_size < 1:
            raise UserError(f"--batch_size is {batch_size}; it must be 1 or more")
        self._n = candidates.n if candidates else 1
        decoding.check(model.cfg.n_positions, self._n)
        if candidates is not None:
            candidates.check(dialogue_format, model.tokenizer)
            candidates.check_room(decoding.longest(model.cfg.n_positions))
        self._reader = JaxReader(model, dialogue_format)
        self._decoding, self._candidates = decoding, candidates
        self._prompts = Prompts(dialogue_format, model.tokenizer, model.cfg.vocab_size, model.cfg.n_positions)
        self._max_new_tokens = decoding.longest(model.cfg.n_positions)
        self._at_once = max(batch_size // max(self._n, decoding.num_beams), 1)

    def answer(self, contexts: Sequence[Sequence[Turn]], role: int = BOT) -> list[str]:
        """What `role` (0 or 1) says after each of the contexts, in their order; see `batches`."""
        replies = [""] * len(contexts)
        for batch in self.batches(contexts, role):
            for number, reply in batch.items():
                replies[number] = reply
        return replies

    def batches(
        self, contexts: Sequence[Sequence[Turn]], role: int = BOT, done: Collection[int] = ()
    ) -> Iterator[dict[int, str]]:
        """The context's number in the list, from 0 -> what `role` (0 or 1) says after it; a batch at a time.

        done: numbers of contexts that need no reply; those of some batches leave the other batches as they are.
        Of a context that is too long the first turns are left out. With a seed a reply depends on the seed, its context
        and the context's number, not on what else is in its batch. UserError where a context has no turns.
        """
        prompts = {n: self._prompt(context, role, n + 1) for n, context in enumerate(contexts) if n not in done}
        modes, rules = make_rules(
            self._reader.cfg.vocab_size,
            **self._decoding.rules(),
            eos_id=self._reader.tokenizer.eos_token_id,
            stops=[self._prompts.stop_ids],
            banned_first=self._prompts.not_first,
            role=role,
        )
        seed = draw_seed(self._decoding, Limits(self._max_new_tokens, self._prompts.stop_ids))
        # Neighbours in length have about the same width, so that few are compiled and little of them is padding. The
        # longest come first: where they do not fit the memory that shows at once.
        order = sorted(prompts, key=lambda number: -len(prompts[number].encoded.ids))
        at_once = min(self._at_once, len(contexts))
        with progress_bar(total=len(order), unit="reply", desc="replies") as bar:
            for begin in range(0, len(order), max(at_once, 1)):
                numbers = order[begin : begin + at_once]
                # The last batch is filled up with one of its rows: another number of rows would be compiled anew.
                filled = [*numbers, *numbers[-1:] * (at_once - len(numbers))]
                drawn = self._draw([prompts[number] for number in filled], filled, seed, modes, rules)
                best = [self._best(prompts[number], ids, role) for number, ids in zip(numbers, drawn, strict=False)]
                bar.update(len(numbers))
                yield dict(zip(numbers, best, strict=True))

    def _prompt(self, context: Sequence[Turn], role: int, number: int) -> Prompt:
        if not context:
            raise UserError(f"context {number} has no turns; give something to reply to, or leave it out")
        turns = [Turn(encodable(turn.text).strip(), turn.role) for turn in context]
        return self._prompts.cut(turns, role, self._max_new_tokens, History())

    def _draw(
        self, prompts: list[Prompt], numbers: list[int], seed: int, modes: Modes, rules: Rules
    ) -> list[list[list[int]]]:
        """Ids of the candidates for each prompt."""
        reader, decoding, n = self._reader, self._decoding, self._n
        ids = [prompt.encoded.ids.tolist() for prompt in prompts for _ in range(n)]
        roles = [prompt.encoded.roles.tolist() for prompt in prompts for _ in range(n)]
        if decoding.num_beams > 1:
            found, _ = beam_search(
                reader.cfg,
                reader.params,
                ids,
                roles,
                self._max_new_tokens,
                decoding.num_beams,
                decoding.length_penalty,
                decoding.early_stopping,
                modes,
                rules,
            )
        else:
            state = set_up(reader.cfg, ids, roles, self._max_new_tokens, seed)
            rows = np.add.outer(n * np.array(numbers), np.arange(n)).ravel()
            keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(rows))
            state = state._replace(keys_B=keys)
            eos = reader.tokenizer.eos_token_id
            state = generate(reader.cfg, modes, reader.params, rules, state, self._max_new_tokens, eos)
            found = drawn_ids(state, rules)
        return [found[at : at + n] for at in range(0, len(found), n)]

    def _best(self, prompt: Prompt, drawn: list[list[int]], role: int) -> str:
        ids = drawn[0]
        if self._candidates is not None:
            texts = [self._prompts.visible(reply).rstrip() for reply in drawn]
            ids = best_reply(self._reader, self._candidates, prompt.encoded, prompt.turns, drawn, texts, role)
        return self._prompts.visible(ids).rstrip()
