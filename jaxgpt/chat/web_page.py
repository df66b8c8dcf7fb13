"""The page itself, in Gradio: a conversation on the left, how replies are drawn on the right."""

import html
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import USER
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

NewBot = Callable[[Callable[[str], None]], Bot]  # from where notes to the user go
MAX_CHARACTERS = 20_000  # of one message

_CSS = """
footer { display: none !important; }
#title h1 { font-size: 1.1rem; margin: 0; }
#conversation { height: calc(100dvh - 186px) !important; }
#conversation .top-panel { display: none; }  /* its Clear would empty the page, but not the conversation */
#conversation .message-wrap { gap: 4px; padding: 0 14px; }
#conversation .message { white-space: pre-wrap; overflow-wrap: anywhere; }
#conversation .message-row { flex-direction: column; margin: 0 0 10px; max-width: 85%%; }
#conversation .message-row::before { font-size: .75rem; font-weight: 600; opacity: .6; padding: 0 6px 3px; }
#conversation .user-row { align-items: flex-end; align-self: flex-end; }
#conversation .bot-row { align-items: flex-start; }
#conversation .user-row::before { content: %s; }
#conversation .bot-row::before { content: %s; }
"""

_SEED_DIGITS = 20


@dataclass
class _Talk:
    """One browser page's conversation.

    halted: whether the reply that is being drawn is no longer wanted
    typed: what stands in the box once it is free again; None where nobody waits for it
    """

    bot: Bot
    halted: bool = False
    typed: str | None = None


class _Handlers:
    """What the page's buttons do. One reply is drawn at a time, whoever asks."""

    def __init__(self, new_bot: NewBot):
        self._new_bot = new_bot
        self._engine = Lock()

    def say(self, talk: _Talk | None, text: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        import gradio as gr

        said = (text or "").strip()
        if not said:
            yield gr.skip(), gr.skip(), gr.skip()
            return
        if len(said) > MAX_CHARACTERS:
            raise gr.Error(
                f"Your message has {len(said):,} characters; the most is {MAX_CHARACTERS:,}.", print_exception=False
            )
        talk = talk or _Talk(self._new_bot(gr.Info))
        shown = [*_messages(talk.bot), _message("user", said)]
        yield from self._answer(talk, said, shown, settings, lambda bot: bot.stream(said))

    def retry(self, talk: _Talk | None, text: str, *settings: Any) -> Iterator[tuple[Any, ...]]:
        import gradio as gr

        if talk is None or not talk.bot.turns:
            gr.Info("There is no reply to try again; say something first.")
            yield gr.skip(), gr.skip(), gr.skip()
            return
        yield from self._answer(talk, "", _messages(talk.bot)[:-1], settings, lambda bot: bot.retry(), text)

    def _answer(
        self,
        talk: _Talk,
        said: str,
        shown: list[dict[str, str]],
        settings: tuple[Any, ...],
        begin: Callable[[Bot], Generator[str, None, None]],
        typed: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """States of the page while a reply is drawn; `free` then gives the box back with `typed`, or what was said."""
        import gradio as gr

        with self._engine:
            talk.halted, talk.typed, reply = False, typed, ""
            yield talk, shown, _box(typed, busy=True)
            try:
                talk.bot.decoding = _decoding(talk.bot.decoding, settings)
                with closing(begin(talk.bot)) as pieces:
                    for piece in pieces:
                        reply += piece
                        yield gr.skip(), [*shown, _message("assistant", reply)], gr.skip()
                        if talk.halted:
                            talk.typed = said or typed
                            break
            except UserError as error:
                gr.Warning(str(error))
                talk.typed = said or typed
            except Exception:
                talk.typed = said or typed
                yield talk, _messages(talk.bot), gr.skip()  # what was drawn so far is no turn
                raise
            yield talk, _messages(talk.bot), gr.skip()

    def free(self, talk: _Talk | None) -> Any:
        """Lets the user type again.

        Not the last state of `say`: Gradio drops what is submitted between an event's last state and its end.
        """
        import gradio as gr

        if talk is None or talk.typed is None:
            return gr.skip()
        typed, talk.typed = talk.typed, None
        return _box(typed, busy=False)

    def halt(self, talk: _Talk | None) -> None:
        """Ends the reply that is being drawn; the conversation is then as before, and what was said in the box."""
        if talk is not None:
            talk.halted = True

    def undo(self, talk: _Talk | None) -> tuple[Any, ...]:
        import gradio as gr

        with self._engine:
            if talk is None or not talk.bot.turns:
                return gr.skip(), gr.skip()
            said = talk.bot.turns[-2].text
            talk.bot.undo()
            return _messages(talk.bot), _box(said, busy=False)

    def clear(self, talk: _Talk | None) -> tuple[Any, ...]:
        with self._engine:
            if talk is not None:
                talk.bot.restart()
            return [], _box("", busy=False)


def build(new_bot: NewBot, title: str, n_positions: int) -> "gr.Blocks":
    """The page; every browser page gets a bot of its own from `new_bot`, and all of them share its engine.

    n_positions: of the engine's model, in tokens
    """
    import gradio as gr

    bot = new_bot(lambda text: None)  # only to ask what it is like
    handlers = _Handlers(new_bot)
    with gr.Blocks(title=title, fill_height=True, fill_width=True, analytics_enabled=False) as page:
        talk = gr.State(None)
        with gr.Sidebar(position="right", width=320):
            settings = _settings(bot.decoding, n_positions)
        gr.Markdown(f"# {_literal(title)}", elem_id="title")
        chat = gr.Chatbot(
            elem_id="conversation",
            show_label=False,
            scale=1,
            buttons=[],
            render_markdown=False,
            latex_delimiters=[],
            group_consecutive_messages=False,
            feedback_options=None,
            placeholder="Say something.",
        )
        box = gr.Textbox(
            elem_id="message",
            show_label=False,
            label="Message",
            placeholder=f"Message to {bot.names[1]}",
            max_length=MAX_CHARACTERS,
            lines=1,
            max_lines=8,
            autofocus=True,
            submit_btn=True,
        )
        with gr.Row():
            retry, undo, clear = (
                gr.Button(name, size="sm", variant="secondary") for name in ("Retry", "Undo", "Clear")
            )
        # One of these events at a time: nobody changes a conversation while a reply is drawn, and nobody waits in a
        # thread for another one to end.
        one: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "engine",
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": box,
        }
        now: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
        said = box.submit(handlers.say, [talk, box, *settings], [talk, chat, box], **one)
        retried = retry.click(handlers.retry, [talk, box, *settings], [talk, chat, box], **one)
        for answered in (said, retried):
            answered.then(handlers.free, [talk], [box], **now, queue=False)  # a full queue must not keep the box
        undo.click(handlers.undo, [talk], [chat, box], **one)
        box.stop(handlers.halt, [talk], None, **now)
        clear.click(handlers.halt, [talk], None, **now).then(handlers.clear, [talk], [chat, box], **one)
    page.queue(max_size=32)
    return page


def css(names: tuple[str, str]) -> str:
    """Style of the page; the speakers' names stand above their turns."""
    return _CSS % (_css_string(names[0]), _css_string(names[1]))


def _css_string(text: str) -> str:
    """A CSS string of any text: every character is escaped, so that none ends it.

    Gradio undoes this and writes the style into the page as HTML, where "</style>" would end it.
    """
    return (
        '"'
        + "".join(f"\\{ord(character):06x}" for character in text.replace("<", "\N{FULLWIDTH LESS-THAN SIGN}"))
        + '"'
    )


def _literal(text: str) -> str:
    """Markdown of any text: every character is an entity, so that none means anything."""
    return "".join(f"&#{ord(character)};" for character in text)


def _messages(bot: Bot) -> list[dict[str, str]]:
    return [_message("user" if turn.role == USER else "assistant", turn.text) for turn in bot.turns]


def _message(role: str, text: str) -> dict[str, str]:
    """Gradio puts the content into the page as HTML."""
    return {"role": role, "content": html.escape(text, quote=False)}


def _box(text: str, busy: bool) -> "gr.Textbox":
    import gradio as gr

    return gr.Textbox(text, submit_btn=not busy, stop_btn=busy, interactive=not busy)


def _settings(decoding: Decoding, n_positions: int) -> "list[gr.components.Component]":
    """One field for each value that `_decoding` takes, in its order. They begin with the command line's values."""
    import gradio as gr

    temperature, top_k, penalty = decoding.temperature, decoding.top_k, decoding.repetition_penalty
    longest = decoding.longest(n_positions)
    return [
        gr.Slider(0, max(2, temperature), temperature, step=0.05, label="Temperature", info="0: likeliest"),
        gr.Slider(0.01, 1, decoding.top_p, step=0.01, label="Top-p", info="1: all tokens"),
        gr.Slider(0, max(200, top_k), top_k, step=1, label="Top-k", info="0: all tokens"),
        gr.Slider(min(1, penalty), max(2, penalty), penalty, step=0.05, label="Repetition penalty", info="1: none"),
        gr.Slider(1, n_positions - 1, longest, step=1, label="Longest reply", info="in tokens"),
        gr.Textbox(  # gr.Number shows no value as 0
            "" if decoding.seed is None else str(decoding.seed),
            label="Seed",
            placeholder="different each time",
            max_length=_SEED_DIGITS,
        ),
    ]


def _decoding(now: Decoding, settings: tuple[Any, ...]) -> Decoding:
    temperature, top_p, top_k, penalty, longest, seed = settings
    seed = (seed or "").strip()
    if seed and not (seed.isdecimal() and len(seed) <= _SEED_DIGITS):
        raise UserError(f"Seed is {seed[:40]!r}; it must be a whole number of at most {_SEED_DIGITS} digits, or empty")
    return replace(
        now,
        temperature=temperature,
        top_p=top_p,
        top_k=int(top_k),
        repetition_penalty=penalty,
        max_new_tokens=int(longest),
        seed=int(seed) if seed else None,
    )
