"""`jaxgpt chat --web`: the page of web_page.py behind the guard of web_guard.py, on one address."""

import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from jaxgpt.chat.web_guard import USER, App, Guard
from jaxgpt.chat.web_page import NewBot, build, css
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    import uvicorn

PASSWORD = "JAXGPT_WEB_PASSWORD"
_SHORTEST_PASSWORD = 8
_CONNECTIONS = 200  # more at once are answered with 503


@dataclass(frozen=True)
class Place:
    """Where the page will be, and the password it asks for; None asks for none."""

    listener: socket.socket
    password: str | None


def reserve(host: str, port: int, password_file: str | None) -> Place:
    """Takes the port, so that what is wrong with it shows before a model is loaded; port 0 means any that is free.

    UserError where gradio is missing, the port is taken, the address is not of this machine, or the network could
    reach it and there is no password of 8 characters in password_file or in the environment.
    """
    if find_spec("gradio") is None:
        raise UserError('--web needs gradio, which is not installed; pip install "jaxgpt[web]"')
    listener = bind(host, port)
    try:
        return Place(listener, password_for(listener, password_file))
    except (UserError, OSError):
        listener.close()
        raise


def serve(new_bot: NewBot, title: str, n_positions: int, place: Place) -> None:
    """Shows the page until Ctrl-C, and prints its address once it is there."""
    application = app(new_bot, title, n_positions, place)
    host, port = place.listener.getsockname()[:2]
    signed = f", user name {USER}" if place.password else ""
    print(f"{title} is on http://{f'[{host}]' if ':' in host else host}:{port}{signed} (Ctrl-C ends it)", flush=True)
    running = server(application)
    # In a thread uvicorn leaves the signals alone; it would raise them again where nobody catches them.
    thread = Thread(target=running.run, kwargs={"sockets": [place.listener]}, daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        print(flush=True)
        running.should_exit = True
        thread.join()


def app(new_bot: NewBot, title: str, n_positions: int, place: Place) -> App:
    """The page and its guard as an ASGI application."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio calls home without it; read when it is imported
    import gradio as gr
    from fastapi import FastAPI

    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    page = build(new_bot, title, n_positions)
    inner = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=gr.themes.Default(
            primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"]
        ),
        css=css(new_bot(lambda text: None).names),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
    )
    own = frozenset({"localhost", "127.0.0.1", "::1", place.listener.getsockname()[0]})
    return Guard(inner, own if _is_loopback(place.listener) else None, place.password)


def server(application: App) -> "uvicorn.Server":
    import uvicorn

    config = uvicorn.Config(
        application, log_level="error", ws="none", limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on that address; who connects already waits until the page is there."""
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; it must lie in 0 (any that is free) to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host {host!r} is no address; give one of this machine, or leave it out") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
        return listener
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port} on {host} is taken by another program; give another one, or 0 for any that is free"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port} is reserved for the system's administrator; give one above 1023") from None
        raise UserError(f"--host {host}: {error.strerror}; give an address of this machine") from None


def _is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def password_for(listener: socket.socket, password_file: str | None) -> str | None:
    """The password to ask for: of the file or else of the environment. UserError where the network needs one."""
    where = f"--password_file {password_file}" if password_file else PASSWORD
    password = _read_password(Path(password_file)) if password_file else os.environ.get(PASSWORD)
    if password is None:
        if not _is_loopback(listener):
            raise UserError(
                f"--host {listener.getsockname()[0]} opens the page to the network, which takes a password; "
                f"put one into a file for --password_file, or into the environment as {PASSWORD}"
            )
        return None
    if len(password) < _SHORTEST_PASSWORD:
        raise UserError(f"{where}: the password has {len(password)} characters; give it {_SHORTEST_PASSWORD} or more")
    return password


def _read_password(path: Path) -> str:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UserError(f"--password_file {path} has mode {mode:o}, so that others can read it; chmod 600 {path}")
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"--password_file {path} is not UTF-8 text; write the password into it as text") from None
