"""Weights & Biases: is the package here, is there a key, does the service take it? The key is never shown."""

import base64
import http.client
import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jaxgpt.config import WandbConfig
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.hardware import Hardware
from jaxgpt.doctor.versions import installed, way_to_install
from jaxgpt.errors import UserError

_NAME = "wandb"
_SERVICE = "https://api.wandb.ai"
_QUERY = json.dumps({"query": "query Viewer { viewer { username } }"}).encode()
_SECONDS = 10.0
_OFFLINE = "training will write to the run's folder, for `wandb sync`"


def check_wandb(cfg: WandbConfig, hardware: Hardware) -> Iterator[Line]:
    """Asks the service only where cfg.mode is online."""
    if cfg.mode == "disabled":
        yield Line("ok", _NAME, "disabled")
        return
    version = installed("wandb")
    if version is None:
        way_out = way_to_install("wandb", hardware)
        raise UserError(f"log.wandb.mode is {cfg.mode} but wandb is not installed; {way_out}")
    service = _service()
    if cfg.mode == "offline":
        yield Line("ok", _NAME, f"{version}, offline")
        return
    file = _netrc_file()
    key, source = os.environ.get("WANDB_API_KEY"), "WANDB_API_KEY"
    if not key:
        key, source = _of_netrc(file, urlsplit(service).netloc), str(file)
        if key and file.stat().st_mode & 0o077:
            yield Line("warn", _NAME, f"others may read {file}, which holds your key; chmod 600 {file}")
    if not key:
        raise UserError(
            f"log.wandb.mode is online, but neither WANDB_API_KEY nor {file} has a key for {service}; `wandb login` "
            "stores one"
        )
    yield _answer_to(key, source, service)


def _service() -> str:
    """UserError where wandb, offline as well, would not begin because of the address."""
    given = os.environ.get("WANDB_BASE_URL", _SERVICE)
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        found = f"{given}, which does not begin with https:// or http:// and a host" if given else "empty"
        raise UserError(f"WANDB_BASE_URL is {found}; unset it for {_SERVICE}, or set it as https://HOST")
    return given.rstrip("/")


def _netrc_file() -> Path:
    """Where `wandb login` keeps keys."""
    return Path(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc"))  # as it is where there is no home


def _of_netrc(file: Path, host: str) -> str | None:
    try:
        found = netrc.netrc(file).authenticators(host)
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:  # its text may hold a part of the file
        raise UserError(f"{file} can't be read from line {error.lineno} on; mend it, or `wandb login`") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file} can't be read; change its permissions, or set WANDB_API_KEY") from None
    return found[2] if found else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another place must not get the key."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _answer_to(key: str, source: str, service: str) -> Line:
    """What the service says to the key. Source of the query: the schema that wandb's own client uses."""
    login = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{service}/graphql",
        _QUERY,
        {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    refused = Line("fail", _NAME, f"{service} refuses the key of {source}; `wandb login --relogin` stores another")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS) as answer:
            viewer = (json.load(answer).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return refused
        return Line("warn", _NAME, f"{service} answers with {error.code}; if it stays so, {_OFFLINE}")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Line("warn", _NAME, f"{service} can't be reached ({reason}); if it stays so, {_OFFLINE}")
    except (ValueError, AttributeError):
        return Line("warn", _NAME, f"{service} answers as no W&B server does; see WANDB_BASE_URL, or else {_OFFLINE}")
    if not viewer:
        return refused
    return Line("ok", _NAME, f"{service} takes the key of {source}")
