"""Who may ask the web page what: an ASGI layer around Gradio, which itself asks nobody and takes bodies of any size."""

import asyncio
import base64
import binascii
import hmac
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

USER = "jaxgpt"
MAX_BODY = 1_000_000  # bytes; the longest message, with every character escaped, has a fifth of it
_SECONDS_PER_WRONG_PASSWORD = 1.0
_SECONDS_PER_BODY = 30
# The page takes no files, but Gradio would write them to disk; and it needs no description of its interface.
_CLOSED = ("/gradio_api/upload", "/openapi.json")
_HEADERS = [
    # What the page loads comes from this server; no other page may show it in a frame.
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Answers a request itself, with one line of text, where `app` must not see it.

    hosts: names that the header Host may carry, without port; None allows any. A page of another site that has its own
        name point to this machine (DNS rebinding) is turned away by it with 403.
    password: of the user `jaxgpt`, by HTTP Basic (RFC 7617), for every path; None asks for none. Otherwise 401.
    An Origin (RFC 6454) other than Host gets 403, a body above MAX_BODY bytes 413, one that
    does not come 408, an upload 404.
    """

    def __init__(self, app: App, hosts: frozenset[str] | None, password: str | None):
        self._app, self._hosts = app, hosts
        self._expected = None if password is None else f"{USER}:{password}".encode()
        self._one_guess = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refusal(scope["path"], headers):
            await _answer(send, *refusal)
            return
        if self._expected is not None and not await self._known(headers.get(b"authorization")):
            challenge = (b"www-authenticate", b'Basic realm="jaxgpt", charset="UTF-8"')
            await _answer(send, 401, f"user name {USER} and the password, please", challenge)
            return
        try:
            async with asyncio.timeout(_SECONDS_PER_BODY):
                body = await _read(receive)
        except TimeoutError:
            await _answer(send, 408, f"the request did not come within {_SECONDS_PER_BODY} seconds")
            return
        if body is None:
            await _answer(send, 413, f"the request is larger than {MAX_BODY} bytes")
            return
        try:
            await self._app(scope, _replay(body, receive), _with_headers(send))
        except (KeyError, TypeError, ValueError) as error:  # Gradio has answered with 500
            print(f"(a malformed request to {scope['path']!r}: {error!r})", file=sys.stderr, flush=True)

    def _refusal(self, path: str, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if self._hosts is not None and _hostname(host) not in self._hosts:
            return 403, f"this server does not go by the name {host!r}"
        origin = headers.get(b"origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, f"this server takes no requests from pages of {origin!r}"
        if path.startswith(_CLOSED):
            return 404, "there is nothing here: this page takes no files"
        return None

    async def _known(self, authorization: str | None) -> bool:
        if authorization is None:
            return False
        kind, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            given = b""
        assert self._expected is not None
        if kind.lower() == "basic" and hmac.compare_digest(given, self._expected):
            return True
        async with self._one_guess:  # one wrong password at a time, however many connections guess
            await asyncio.sleep(_SECONDS_PER_WRONG_PASSWORD)
        return False


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _read(receive: Receive) -> list[Message] | None:
    """The messages of a request's body; None where it is too large."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            return None
        if not message.get("more_body", False):  # the end, or a client that left half way
            return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replay() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return replay


def _with_headers(send: Send) -> Send:
    async def added(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return added


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = f"{text}\n".encode()
    start = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
