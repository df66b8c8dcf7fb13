"""Keys in the environment and in ~/.netrc, a service on loopback, and that no line ever holds a key."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import web_server

from jaxgpt.config import WandbConfig
from jaxgpt.doctor import wandb_key
from jaxgpt.doctor.check import Check, Line
from jaxgpt.doctor.hardware import Hardware

KEY = "s3cret" * 7
ONLINE = WandbConfig(mode="online")


@pytest.fixture(autouse=True)
def _no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT of one that knows KEY, and answers to others as the real one does."""
    login = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()

    def answer(path: str, headers: dict[str, str]) -> tuple[int, str]:
        if path != "/graphql":
            return 404, ""
        known = headers.get("Authorization") == login
        return 200, json.dumps({"data": {"viewer": {"username": "anna"} if known else None}})

    with web_server(answer) as (host, _):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{host}/")
        yield host


def lines(cfg: WandbConfig = ONLINE) -> list[Line]:
    found = Check("wandb", lambda: wandb_key.check_wandb(cfg, Hardware()), 20).lines()
    for line in found:
        assert KEY not in line.said
        assert base64.b64encode(KEY.encode()).decode()[:20] not in line.said
    return found


def netrc(folder: Path, host: str, key: str = KEY, mode: int = 0o600) -> Path:
    file = folder / ".netrc"
    file.write_text(f"machine {host}\n  login user\n  password {key}\n")
    file.chmod(mode)
    return file


def test_disabled_and_offline_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert lines(WandbConfig()) == [Line("ok", "wandb", "disabled")]
    (offline,) = lines(WandbConfig(mode="offline"))
    assert offline.level == "ok"
    assert offline.said.endswith(", offline")


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_asked_for_and_not_installed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_key, "installed", lambda name: None)
    (line,) = lines(WandbConfig(mode=mode))  # type: ignore[arg-type]
    assert line.said == f"log.wandb.mode is {mode} but wandb is not installed; python -m pip install wandb"


def test_a_key_of_the_environment(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert lines() == [Line("ok", "wandb", f"http://{service} takes the key of WANDB_API_KEY")]


def test_a_key_of_the_netrc_file(service: str, tmp_path: Path) -> None:
    file = netrc(tmp_path, service)
    assert lines() == [Line("ok", "wandb", f"http://{service} takes the key of {file}")]
    file.chmod(0o644)
    warning, well = lines()
    assert warning == Line("warn", "wandb", f"others may read {file}, which holds your key; chmod 600 {file}")
    assert well.level == "ok"


def test_no_key(service: str, tmp_path: Path) -> None:
    netrc(tmp_path, "api.example.org")
    (line,) = lines()
    assert line.level == "fail"
    assert f"neither WANDB_API_KEY nor {tmp_path}/.netrc has a key for http://{service}; `wandb login`" in line.said


def test_a_key_that_is_refused(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY[::-1])
    (line,) = lines()
    assert line.level == "fail"
    assert line.said.startswith(f"http://{service} refuses the key of WANDB_API_KEY; ")
    assert KEY[::-1] not in line.said


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "ä", "x\r\nX-Other: y"])
def test_a_key_with_what_no_key_has(key: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert lines()[0].said.startswith(f"http://{service} refuses the key")


@pytest.mark.parametrize(
    ("status", "body", "level", "said"),
    [
        (401, "", "fail", "refuses the key"),
        (503, "", "warn", "answers with 503"),
        (200, "<html>", "warn", "answers as no W&B server does"),
        (200, "[]", "warn", "answers as no W&B server does"),
    ],
)
def test_services_that_answer_otherwise(
    status: int, body: str, level: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with web_server(lambda path, headers: (status, body)) as (host, _):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{host}")
        (line,) = lines()
    assert line.level == level
    assert said in line.said


def test_the_key_goes_to_no_other_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with (
        web_server(lambda path, headers: (200, "{}")) as (other, asked),
        web_server(lambda path, headers: (302, f"http://{other}/graphql")) as (host, _),
    ):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{host}")
        (line,) = lines()
    assert line.said.startswith(f"http://{host} answers with 302; ")
    assert asked == []


def test_a_service_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (line,) = lines()
    assert line.level == "warn"
    assert "http://127.0.0.1:9 can't be reached (" in line.said


def test_a_netrc_file_that_is_none(service: str, tmp_path: Path) -> None:
    file = tmp_path / ".netrc"
    file.write_text(f"machine {service}\n  login user\n  passwort {KEY}\n")
    file.chmod(0o600)
    (line,) = lines()
    assert line.level == "fail"
    assert line.said.startswith(f"{file} can't be read from line 3 on; ")


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "empty"),
        ("wandb.example.com", "wandb.example.com, which does not begin with https:// or http:// and a host"),
        ("wandb.example.com:8080", "wandb.example.com:8080, which does not begin with https:// or http:// and a host"),
        ("https://", "https://, which does not begin with https:// or http:// and a host"),
    ],
)
def test_an_address_that_wandb_would_not_take(
    address: str, said: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb's own client is asked first: it raises for an empty one as well, and offline too."""
    from pydantic import ValidationError
    from wandb import Settings

    monkeypatch.setenv("WANDB_BASE_URL", address)
    with pytest.raises(ValidationError, match="base_url"):
        Settings(base_url=address)
    netrc(tmp_path, "wandb.example.com")
    assert lines(WandbConfig(mode=mode)) == [  # type: ignore[arg-type]
        Line(
            "fail",
            "wandb",
            f"WANDB_BASE_URL is {said}; unset it for https://api.wandb.ai, or set it as https://HOST",
        )
    ]
