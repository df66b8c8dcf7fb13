"""The web page on a free port, with an engine that says what it was told, and questions to it over real HTTP."""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx
from small_bots import Scripted

from jaxgpt.chat import web
from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import Engine, Limits
from jaxgpt.data.dialogue import EncodedConversation

EngineT = TypeVar("EngineT", bound=Engine)
PATIENCE = 20.0  # seconds for anything to happen on a busy machine


class Echo(Scripted):
    """Says back what was said last, after the number of the attempt; a cleared `go` holds it before each token.

    drawn: how many tokens it has said; running: how many replies it is drawing now, and most: at most so far
    """

    def __init__(self) -> None:
        super().__init__(positions=1024)
        self.go = threading.Event()
        self.go.set()
        self.drawn = self.running = self.most = 0

    def let_one_through(self) -> None:
        """About one token, where it is held."""
        self.go.set()
        self.go.clear()

    def stream(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> Iterator[int]:
        said = self.tokenizer.decode(prompt.ids.tolist()).removesuffix("\n\n\nB:").rpartition("A:")[2]
        self.asked.append((decoding, limits))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for id_ in [*self.tokenizer.encode(f"attempt {limits.draw[1]}: {said}"), *limits.stop_ids]:
                assert self.go.wait(PATIENCE)
                self.drawn += 1
                yield id_
        finally:
            self.running -= 1


@dataclass
class Running(Generic[EngineT]):
    """A server; bots: of each conversation, after the ones that the page itself asks for its settings."""

    url: str
    engine: EngineT
    bots: list[Bot]


@contextmanager
def running(
    engine: EngineT, decoding: Decoding | None = None, password: str | None = None
) -> Iterator[Running[EngineT]]:
    bots: list[Bot] = []

    def new_bot(note: Callable[[str], None]) -> Bot:
        bots.append(Bot(engine, decoding or Decoding(), names=('Anna "A" </style>', "Bot"), note=note))
        return bots[-1]

    place = web.Place(web.bind("127.0.0.1", 0), password)
    url = f"http://127.0.0.1:{place.listener.getsockname()[1]}"
    server = web.server(web.app(new_bot, "runs/<mine>, format tags", engine.cfg.n_positions, place))
    bots.clear()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.listener]}, daemon=True)
    thread.start()
    try:
        yield Running(url, engine, bots)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


SETTINGS = [0.9, 0.9, 0, 1, 50, ""]  # as the page's fields: temperature … seed


def join(client: httpx.Client, session: str, text: object, settings: list[object] = SETTINGS) -> httpx.Response:
    """What the page sends when Enter is pressed."""
    question = {"data": [None, text, *settings], "fn_index": 0, "session_hash": session}
    return client.post("/gradio_api/queue/join", json=question)


def events(client: httpx.Client, session: str) -> Generator[dict, None, None]:
    """What the page then gets, one by one; closing the iterator closes the connection."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))


def ask(client: httpx.Client, session: str, text: object, settings: list[object] = SETTINGS) -> tuple[list[str], str]:
    """The conversation as the page shows it after `text`, and everything that the server said meanwhile."""
    assert join(client, session, text, settings).status_code == 200
    everything = list(events(client, session))
    done = next(event for event in everything if event["msg"] == "process_completed")
    shown = done["output"]["data"][1] if done["success"] else []
    turns = shown if isinstance(shown, list) else []  # otherwise the page leaves what it shows as it is
    return [turn["content"][0]["text"] for turn in turns], json.dumps(everything)
