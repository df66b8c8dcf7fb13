"""One conversation with a model, prompted in the format that the model was trained on."""

import sys
from collections.abc import Callable, Generator
from contextlib import closing

from jaxgpt.chat.decoding import Decoding, History
from jaxgpt.chat.engine import BOT, USER, Engine, Limits
from jaxgpt.chat.prompts import Prompts
from jaxgpt.chat.rerank import Candidates, best_reply
from jaxgpt.chat.streaming import encodable, settled
from jaxgpt.data.dialogue import EncodedConversation, Turn
from jaxgpt.errors import UserError


def to_stderr(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)


class Bot:
    """One conversation. `turns` is what has been said: the user's turns have role 0, the bot's role 1.

    decoding: may be replaced between replies; UserError where the new one does not fit the model
    names: of the user and of the bot, for whoever shows the conversation
    candidates: how many replies are drawn and how the best is chosen; None draws one
    note: is told, once per conversation, that the model no longer sees all of it
    With a seed a reply depends on the seed, on what was said before and on how often it was retried, on nothing else.
    """

    def __init__(
        self,
        engine: Engine,
        decoding: Decoding,
        history: History | None = None,
        names: tuple[str, str] = ("You", "Bot"),
        candidates: Candidates | None = None,
        note: Callable[[str], None] = to_stderr,
    ):
        self._engine, self._history, self._candidates, self._note = engine, history or History(), candidates, note
        self.names = names
        if candidates is not None:
            candidates.check(engine.format, engine.tokenizer)
        self._prompts = Prompts(engine.format, engine.tokenizer, engine.cfg.vocab_size, engine.cfg.n_positions)
        self._stop, self._not_first = self._prompts.stop_ids, self._prompts.not_first
        self.decoding = decoding
        self.restart()

    @property
    def decoding(self) -> Decoding:
        return self._decoding

    @decoding.setter
    def decoding(self, decoding: Decoding) -> None:
        positions = self._engine.cfg.n_positions
        decoding.check(positions, self._candidates.n if self._candidates else 1)
        self._decoding, self._max_new_tokens = decoding, decoding.longest(positions)

    def restart(self) -> None:
        """Forgets what was said."""
        self.turns: list[Turn] = []
        self._attempts: dict[int, int] = {}  # how often the reply that is turn i was drawn anew
        self._noted: set[str] = set()

    def undo(self) -> bool:
        """Takes back the last thing the user said and its reply; False where there is none."""
        undone = bool(self.turns)
        self.turns = self.turns[:-2]
        return undone

    def stream(self, text: str) -> Generator[str, None, None]:
        """Says `text` and yields the reply in pieces, which joined are the reply.

        `turns` has both once the iterator has come to its end. If it is closed or fails before that, the conversation
        stays as it was. UserError where the text is empty.
        """
        text = encodable(text).strip()
        if not text:
            raise UserError("there is nothing to reply to; say something")
        return self._answer([*self.turns, Turn(text, USER)], 0)

    def reply(self, text: str, emit: Callable[[str], None] = lambda piece: None) -> str:
        """What the bot says to `text`; `emit` gets it piece by piece while it is being drawn."""
        for piece in self.stream(text):
            emit(piece)
        return self.turns[-1].text

    def retry(self) -> Generator[str, None, None]:
        """Draws the last reply anew, in pieces as `stream`; the old one stays until the iterator has come to its end.

        UserError where nothing was said yet.
        """
        if not self.turns:
            raise UserError("there is no reply to try again; say something first")
        before = self.turns[:-1]
        return self._answer(before, self._attempts.get(len(before), 0) + 1)

    def _answer(self, turns: list[Turn], attempt: int) -> Generator[str, None, None]:
        number = len(turns)
        limits = Limits(self._max_new_tokens, self._stop, self._not_first, (number, attempt))
        prompt, seen = self._prompt(turns)
        sent = said = ""
        ids: list[int] = []
        with closing(self._ids(prompt, seen, limits)) as drawn:
            for id_ in drawn:
                ids.append(id_)
                said = self._prompts.visible(ids)
                certain = settled(said).rstrip()  # white space waits until something follows it
                if len(certain) > len(sent):
                    yield certain[len(sent) :]
                    sent = certain
        said = said.rstrip()
        if len(said) > len(sent):
            yield said[len(sent) :]
        self.turns = [*turns, Turn(said, BOT)]
        self._attempts[number] = attempt

    def _ids(self, prompt: EncodedConversation, seen: list[Turn], limits: Limits) -> Generator[int, None, None]:
        if self._candidates is None:
            yield from self._engine.stream(prompt, self._decoding, limits)
            return
        replies = self._engine.draw(prompt, self._candidates.n, self._decoding, limits)
        texts = [self._prompts.visible(ids).rstrip() for ids in replies]
        yield from best_reply(self._engine, self._candidates, prompt, seen, replies, texts)

    def _prompt(self, turns: list[Turn]) -> tuple[EncodedConversation, list[Turn]]:
        """What the model is to continue, and the turns in it: as many of the last ones as there is room for."""
        prompt = self._prompts.cut(turns, BOT, self._max_new_tokens, self._history)
        if prompt.cut_within:
            self._note_once(
                f"your message is longer than the {prompt.room} tokens there is room for; its beginning is left out"
            )
        elif prompt.lacks_turns:
            self._note_once(
                f"the conversation no longer fits the model's {self._engine.cfg.n_positions} tokens; "
                "its first turns are left out"
            )
        return prompt.encoded, prompt.turns

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._note(text)
