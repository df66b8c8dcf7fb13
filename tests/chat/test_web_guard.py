"""What the web page's server does with requests that no page of its own would send, over real HTTP."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING

import httpx
import pytest
from web_server import PATIENCE, SETTINGS, Echo, Running, ask, events, join, running, until

from jaxgpt import cli
from jaxgpt.chat import web, web_guard
from jaxgpt.chat.web_guard import MAX_BODY
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from conftest import TinyRun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site() -> Iterator[Running[Echo]]:
    with running(Echo()) as site:
        yield site


@pytest.fixture
def client(site: Running[Echo], request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Whatever a test did, the server answers afterwards."""
    with httpx.Client(base_url=site.url, timeout=PATIENCE, trust_env=False) as client:
        yield client
        site.engine.go.set()
        shown, _ = ask(client, f"after {request.node.name}", "still there?")
        assert shown == ["still there?", "attempt 0: still there?"]


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.https?:", page.text)
    theme = client.get("/theme.css")
    assert theme.status_code == 200
    assert "googleapis" not in theme.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "[::1", "a b"])
def test_a_name_that_is_not_this_machines_is_refused(client: httpx.Client, host: str) -> None:
    answer = client.get("/config", headers={"Host": host})
    assert answer.status_code == 403
    assert "dependencies" not in answer.text


def test_other_pages_are_refused(client: httpx.Client, site: Running[Echo]) -> None:
    asked = len(site.engine.asked)
    other_port = f"{site.url}0"
    for origin in ("http://evil.example", "null", other_port, "http://localhost:1", "http://["):
        answer = client.post("/gradio_api/queue/join", json={}, headers={"Origin": origin})
        assert answer.status_code == 403, origin
    own = client.get("/config", headers={"Origin": site.url})
    assert own.status_code == 200
    assert len(site.engine.asked) == asked


def test_files_and_what_nobody_needs_are_refused(client: httpx.Client) -> None:
    assert client.post("/gradio_api/upload", files={"files": b"content"}).status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_large_bodies_are_refused(client: httpx.Client) -> None:
    assert client.post("/gradio_api/queue/join", content=b"x" * (MAX_BODY + 1)).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(20))
    with suppress(httpx.TransportError):  # the connection may be closed while we still send: refused as well
        assert client.post("/gradio_api/queue/join", content=chunks).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"data": 1}', b'{"data": [], "fn_index": 99}'])
def test_malformed_bodies_get_an_error(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


_HALF = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n{"


def _raw(url: str, sent: bytes) -> bytes:
    """What the server answers to these bytes, after which we close our side; nothing where it just hangs up."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)


def test_what_is_not_http_and_half_a_request(client: httpx.Client, site: Running[Echo]) -> None:
    assert b"400" in _raw(site.url, b"hello\r\n\r\n")
    assert _raw(site.url, _HALF % httpx.URL(site.url).netloc) == b""


def test_a_body_that_does_not_come(client: httpx.Client, site: Running[Echo], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_guard, "_SECONDS_PER_BODY", 0.2)
    url = httpx.URL(site.url)
    with socket.create_connection((url.host, url.port), timeout=PATIENCE) as connection:
        connection.sendall(_HALF % url.netloc)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("text", "settings", "complaint"),
    [
        ("x" * 20_001, SETTINGS, "20,001 characters"),
        ("hello", [-1, *SETTINGS[1:]], "less than minimum"),
        ("hello", ["warm", *SETTINGS[1:]], '"success": false'),
        ("hello", [*SETTINGS[:5], "abc"], "Seed is 'abc'"),
        ("hello", [*SETTINGS[:5], "-1"], "whole number"),
        ("hello", [*SETTINGS[:5], "1" * 21], "at most 20 digits"),
        ("hello", SETTINGS[:3], '"success": false'),
    ],
    ids=["long", "range", "type", "seed", "negative seed", "long seed", "missing"],
)
def test_what_the_page_cannot_send_gets_an_error(
    client: httpx.Client,
    site: Running[Echo],
    request: pytest.FixtureRequest,
    text: object,
    settings: list[object],
    complaint: str,
) -> None:
    asked = len(site.engine.asked)
    shown, everything = ask(client, request.node.name, text, settings)
    assert shown == []
    assert complaint in everything
    assert len(site.engine.asked) == asked


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_a_message_without_text_is_none(
    client: httpx.Client, site: Running[Echo], request: pytest.FixtureRequest, text: str | None
) -> None:
    asked = len(site.engine.asked)
    shown, everything = ask(client, request.node.name, text)
    assert shown == []
    assert '"success": true' in everything
    assert len(site.engine.asked) == asked


def test_who_leaves_half_way_stops_the_work(client: httpx.Client, site: Running[Echo]) -> None:
    site.engine.go.clear()
    before = site.engine.drawn
    join(client, "leaver", "hello " * 300)
    stream = events(client, "leaver")
    assert next(stream)["msg"] == "estimation"
    until(lambda: site.engine.running == 1)
    stream.close()
    while site.engine.running:  # a token now and then, or the reply would be over before the server sees who left
        site.engine.let_one_through()
        time.sleep(0.01)
    assert site.engine.drawn - before < 300


def test_one_reply_at_a_time(client: httpx.Client, site: Running[Echo]) -> None:
    site.engine.go.clear()
    for session in ("first", "second", "third"):
        join(client, session, f"I am {session}")
    until(lambda: site.engine.running == 1)
    site.engine.go.set()
    for session in ("third", "first", "second"):
        done = [event for event in events(client, session) if event["msg"] == "process_completed"]
        assert done[0]["output"]["data"][1][1]["content"][0]["text"] == f"attempt 0: I am {session}"
    assert site.engine.most == 1


def test_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_guard, "_SECONDS_PER_WRONG_PASSWORD", 0.2)
    with (
        running(Echo(), password="correct hörse") as site,
        httpx.Client(base_url=site.url, timeout=PATIENCE, trust_env=False) as client,
    ):
        for path in ("/", "/config", "/assets/x.js", "/gradio_api/queue/data?session_hash=x", "/login"):
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Basic")
        begin = time.monotonic()
        for auth in (("jaxgpt", "wrong horse"), ("root", "correct hörse"), ("jaxgpt", "")):
            assert client.get("/config", auth=auth).status_code == 401
        assert time.monotonic() - begin > 3 * 0.2
        for header in ("Basic", "Basic ???", "Bearer x", "Basic amF4Z3B0"):
            assert client.get("/config", headers={"Authorization": header}).status_code == 401
        client.auth = httpx.BasicAuth("jaxgpt", "correct hörse".encode())
        assert client.get("/config").status_code == 200
        assert ask(client, "known", "hello")[0] == ["hello", "attempt 0: hello"]


def _reserve(host: str, password_file: Path | None = None, port: int = 0) -> str | None:
    place = web.reserve(host, port, None if password_file is None else str(password_file))
    place.listener.close()
    return place.password


def test_the_network_takes_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(web.PASSWORD, raising=False)
    assert _reserve("127.0.0.1") is None
    assert _reserve("localhost") is None
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 opens the page to the network.*--password_file"):
        _reserve("0.0.0.0")
    monkeypatch.setenv(web.PASSWORD, "seven77")
    with pytest.raises(UserError, match=r"JAXGPT_WEB_PASSWORD: the password has 7 characters; give it 8"):
        _reserve("0.0.0.0")
    monkeypatch.setenv(web.PASSWORD, "from the environment")
    assert _reserve("0.0.0.0") == "from the environment"

    file = tmp_path / "password"
    file.write_text("from the file\n")
    file.chmod(0o644)
    with pytest.raises(UserError, match=r"password has mode 644.*chmod 600"):
        _reserve("127.0.0.1", file)
    file.chmod(0o600)
    assert _reserve("127.0.0.1", file) == "from the file"
    file.write_bytes(b"\xff" * 9)
    with pytest.raises(UserError, match="not UTF-8"):
        _reserve("127.0.0.1", file)
    file.write_text("")
    with pytest.raises(UserError, match=r"password_file .* has 0 characters"):
        _reserve("127.0.0.1", file)


def test_addresses_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with web.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port} on 127\.0\.0\.1 is taken.*0 for any"):
            web.reserve("127.0.0.1", port, None)
    with pytest.raises(UserError, match="--port is 65536"):
        web.reserve("127.0.0.1", 65536, None)
    for host in ("", "no such name", "192.0.2.1"):  # the last is for documentation only (RFC 5737)
        with pytest.raises(UserError, match=f"--host '?{host}"):
            web.reserve(host, 0, None)
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"jaxgpt\[web\]\""):
        web.reserve("127.0.0.1", 0, None)


def test_the_command(tags_run: "TinyRun", tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --prompt"):
        cli.chat(["--model", str(tags_run.hf), "--web", "--prompt", "hello"])
    command = [sys.executable, "-m", "jaxgpt", "chat", "--web", "--port", "0", "--model", str(tags_run.hf)]
    env = {name: value for name, value in os.environ.items() if name != web.PASSWORD}
    with open(tmp_path / "stderr", "wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.match(r"\S+/hf, format tags is on (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
        url = line.split(" is on ")[1].split()[0]
        assert httpx.get(url, timeout=PATIENCE, trust_env=False).status_code == 200
        process.send_signal(SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in (tmp_path / "stderr").read_text()
