"""The bot in a terminal: an exported folder in PyTorch, prompted in the format its model was trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList, set_seed
from transformers.generation.streamers import BaseStreamer

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.quiet import quiet_loading
from jaxgpt.data.dialogue import FORMATS, Conversation, DialogueFormat, EncodedConversation, Turn
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.convert import read_hf_config
from jaxgpt.train.run import CONFIG as RUN_CONFIG

USER, BOT = 0, 1
HELP = "Type a message. restart: forget the conversation. quit: leave."


class _Stop(StoppingCriteria):
    """True when the newest tokens are the ones that end a turn."""

    def __init__(self, stop_ids: list[int]):
        self._stop = torch.tensor(stop_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.Tensor:
        tail = input_ids[:, -len(self._stop) :]
        return torch.all(tail == self._stop, dim=1)


class _Stream(BaseStreamer):
    """Hands on text as it becomes certain; white space waits until something follows it."""

    def __init__(self, decode: Callable[[list[int]], str], emit: Callable[[str], None]):
        self._decode, self._emit = decode, emit
        self._ids: list[int] = []
        self._sent = 0
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:  # transformers sends the prompt first
            self._prompt = False
            return
        self._ids += value.reshape(-1).tolist()
        text = self._decode(self._ids).lstrip()
        certain = text.removesuffix("\N{REPLACEMENT CHARACTER}").rstrip()
        if len(certain) > self._sent:
            self._emit(certain[self._sent :])
            self._sent = len(certain)

    def end(self) -> None:
        pass


class Bot:
    """One conversation with a model. `turns` is what has been said."""

    def __init__(self, folder: Path, decoding: Decoding):
        if (folder / RUN_CONFIG).is_file():
            raise UserError(f"{folder} is a run; export it first: jaxgpt export {folder} --output {folder}/hf")
        cfg, content = read_hf_config(folder)
        name = content.get("dialogue_format")
        if name not in FORMATS:
            raise UserError(
                f"{folder}/config.json: dialogue_format is {name!r}, the bot knows {', '.join(FORMATS)}; "
                "train on pages of conversations and export that run"
            )
        self._cfg, self._decoding = cfg, decoding
        self._format: DialogueFormat = FORMATS[name]
        self._tokenizer: Tokenizer = load_tokenizer(str(folder))
        self._max_new_tokens = decoding.max_new_tokens or min(200, cfg.n_positions // 2)
        if self._max_new_tokens >= cfg.n_positions:
            raise UserError(
                f"--max_new_tokens {self._max_new_tokens} leaves no room for a prompt in the model's n_positions "
                f"{cfg.n_positions}; try {cfg.n_positions // 2}"
            )
        quiet_loading()
        self._model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        # A reply begins with something to read: not with the end of a turn, and not with white space.
        self._not_first = [id_ for id_ in range(cfg.vocab_size) if not self._tokenizer.decode([id_]).strip()]
        self._not_first += [*self._format.stop_ids(self._tokenizer), self._tokenizer.eos_token_id]
        if decoding.seed is not None:
            set_seed(decoding.seed)
        self.turns: list[Turn] = []

    def restart(self) -> None:
        self.turns = []

    def _prompt(self) -> EncodedConversation:
        """As many of the last turns as leave room for a reply."""
        room = self._cfg.n_positions - self._max_new_tokens
        turns = list(self.turns)
        while True:
            encoded = self._format.prompt(Conversation(tuple(turns)), BOT, self._tokenizer)
            if len(encoded.ids) <= room or len(turns) == 1:
                return EncodedConversation(
                    encoded.ids[-room:], encoded.weights[-room:], encoded.roles[-room:], encoded.starts
                )
            turns = turns[1:]

    def reply(self, text: str, emit: Callable[[str], None] = lambda piece: None) -> str:
        """What the bot says to `text`; `emit` gets it piece by piece while it is being drawn."""
        self.turns.append(Turn(text.strip(), USER))
        prompt = self._prompt()
        ids = torch.tensor(prompt.ids)[None]
        types = (
            {"token_type_ids": torch.tensor(prompt.roles, dtype=torch.long)[None]} if self._cfg.use_token_types else {}
        )
        decoding = self._decoding
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                **types,
                do_sample=True,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                repetition_penalty=decoding.repetition_penalty,
                max_new_tokens=self._max_new_tokens,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.eos_token_id,
                begin_suppress_tokens=self._not_first,
                stopping_criteria=StoppingCriteriaList([_Stop(self._format.stop_ids(self._tokenizer))]),
                streamer=_Stream(self._visible, emit),
            )
        said = self._visible(out[0, ids.shape[1] :].tolist()).strip()
        self.turns.append(Turn(said, BOT))
        return said

    def _visible(self, ids: list[int]) -> str:
        """Text of a reply, without the tokens that end it."""
        stop = self._format.stop_ids(self._tokenizer)
        if ids[-len(stop) :] == stop:
            ids = ids[: -len(stop)]
        return self._tokenizer.decode([id_ for id_ in ids if id_ != self._tokenizer.eos_token_id])


def talk(bot: Bot) -> None:
    """Reads lines until `quit` or the end of the input."""
    print(HELP)
    while True:
        try:
            text = input("You: ").strip()
        except EOFError:
            print()
            return
        if text == "quit":
            return
        if text == "restart":
            bot.restart()
            print("(a new conversation)")
        elif text:
            print("Bot: ", end="", flush=True)
            bot.reply(text, lambda piece: print(piece, end="", flush=True))
            print(flush=True)
