"""A bucket on loopback for tests: Cloud Storage's emulator behind a proxy that fails when it is told to."""

import http.client
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gcp_storage_emulator.server import create_server

from jaxgpt.data.manifest import FILE, Manifest, ShardInfo, SplitInfo
from jaxgpt.data.records import PageFormat, ShardWriter

BUCKET = "pages-of-ours"
ROW_LENGTH, VOCAB = 1021, 50_257

# What becomes of one request, by its method and path. None: it is served. A number: it is answered with this status.
# "drop": the line is cut while the client sends; "lost": served, but the line is cut before the answer;
# "cut": the line is cut in the middle of the answer; "flip": a bit of what the client sends is flipped on the way.
Fault = Callable[[str, str], int | str | None]


class Bucket:
    """url: of the server; requests: (method, path) of each; begun: name of the object of each upload that was begun."""

    def __init__(self, storage: Any, emulator: str, url: str):
        self.storage, self.emulator, self.url = storage, emulator, url
        self.requests: list[tuple[str, str]] = []
        self.begun: list[str] = []
        self.lock = threading.Lock()
        self.empty()

    def empty(self) -> None:
        self.storage.wipe(keep_buckets=True)
        self.set_location("US")
        self.heal()

    def heal(self) -> None:
        """From now on nothing fails; forgets the requests so far."""
        self.fault: Fault = lambda method, path: None
        self.requests.clear()
        self.begun.clear()

    def fail_first(self, n: int, how: int | str, method: str) -> None:
        """The next n requests of a method fail, those after them do not."""
        left = [n]

        def fault(this: str, path: str) -> int | str | None:
            if this != method or not left[0]:
                return None
            left[0] -= 1
            return how

        self.fault = fault

    def objects(self) -> dict[str, bytes]:
        names = [entry["name"] for entry in self.storage.get_file_list(BUCKET)[0]]
        return {name: bytes(self.storage.get_file(BUCKET, name)) for name in names}

    def put(self, name: str, content: bytes) -> None:
        """Writes an object past our code and past the proxy."""
        connection = http.client.HTTPConnection(self.emulator)
        connection.request("PUT", f"/{BUCKET}/{name}", content, {"Content-Type": "application/octet-stream"})
        assert connection.getresponse().status == 200
        connection.close()

    def set_location(self, location: str, *regions: str) -> None:
        entry = self.storage.buckets[BUCKET]
        entry["location"] = location
        entry["customPlacementConfig"] = {"dataLocations": list(regions)}


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            with bucket.lock:
                how = bucket.fault(self.command, self.path)
                bucket.requests.append((self.command, self.path))
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length // 2 if how == "drop" else length)
            self._note_upload(body)
            if how == "flip":
                # Before the boundary that ends a body of several parts: in the middle there may be the object's name.
                at = body.rfind(b"\n--") - 1 if body.rstrip().endswith(b"--") else length // 2
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            if how == "drop":
                return self.connection.close()
            if isinstance(how, int) or self._is_replaced():
                return self._refuse(how if isinstance(how, int) else 404)
            connection = http.client.HTTPConnection(bucket.emulator)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if how == "lost":
                return self.connection.close()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if how == "cut" else content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def _refuse(self, status: int) -> None:
            content = json.dumps({"error": {"code": status, "message": "as the test wants it"}}).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _is_replaced(self) -> bool:
            """Whether a generation is asked for that is gone: the emulator would give the newest instead."""
            path, _, query = self.path.partition("?")
            wanted = urllib.parse.parse_qs(query).get("generation")
            name = urllib.parse.unquote(path.rpartition("/o/")[2])
            return wanted is not None and wanted != [bucket.storage.get_file_obj(BUCKET, name)["generation"]]

        def _note_upload(self, body: bytes) -> None:
            """Small objects carry their name in the body, large ones in the path of their first request."""
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            kind = query.get("uploadType", [""])[0]
            if kind == "multipart" and (name := re.search(rb'"name": ("[^"]*")', body)):
                bucket.begun.append(json.loads(name[1]))
            elif kind == "resumable" and "upload_id" not in query:
                bucket.begun.append(query["name"][0])

        def log_message(self, *args: Any) -> None:
            """Tests print nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line that is cut is meant."""


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """The server, found by our code through the environment; nobody waits before trying again."""
    import gcsfs.retry

    from jaxgpt.data import upload

    async def no_pause(seconds: float) -> None:
        """Six tries would take half a minute."""

    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        create_server("localhost", 0, in_memory=True, default_bucket=BUCKET) as server,
    ):
        monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=no_pause))
        monkeypatch.setattr(upload, "_PAUSE_S", 0.0)
        bucket = Bucket(server._storage, f"localhost:{server._api._httpd.server_address[1]}", "")
        proxy = _Server(("localhost", 0), _handler(bucket))
        bucket.url = f"http://localhost:{proxy.server_address[1]}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        yield bucket
        proxy.shutdown()
        proxy.server_close()


def write_random_pages(folder: Path, seed: int = 0, rows: tuple[int, ...] = (11, 3000, 7)) -> Path:
    """A stream of random tokens as pages; the last shard is the split valid, the second is larger than 5 MiB."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_bytes(b'{"a": "\xc3\xa4\r\n"}\n\n')
    random = np.random.default_rng(seed)
    shards = []
    for number, n_rows in enumerate(rows):
        file = f"pages-{number:05d}.tfrecord"
        writer = ShardWriter(folder / file, PageFormat("stream", ROW_LENGTH, VOCAB))
        writer.write({"tokens": random.integers(0, VOCAB, (n_rows, ROW_LENGTH))})
        writer.close()
        shards.append(ShardInfo(file, n_rows, n_rows * ROW_LENGTH, writer.n_bytes, writer.crc32c))
    splits = {}
    for name, part in (("train", shards[:-1]), ("valid", shards[-1:])):
        tokens = sum(shard.tokens for shard in part)
        splits[name] = SplitInfo(1, tokens, tokens - 1, tokens, tokens, tuple(part))
    manifest = Manifest("stream", ROW_LENGTH, VOCAB, "gpt2", "", 50256, None, None, splits, [], f"seed {seed}")
    (folder / FILE).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    """Name within the folder -> bytes, of everything that is not hidden."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
