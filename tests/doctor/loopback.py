"""A web server on loopback that answers as a test wants it, and what it was asked."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (path, headers) -> status and body
Answer = Callable[[str, dict[str, str]], tuple[int, str]]


@contextmanager
def web_server(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Its HOST:PORT, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(self.path)
            status, body = answer(self.path, dict(self.headers))
            self.send_response_only(status)
            if status == 302:
                self.send_header("Location", body)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def metadata_server(**attributes: str) -> Iterator[tuple[str, list[str]]]:
    """Google's, of a machine; zone=…, and accelerator_type=… of a TPU VM."""
    known = {"/computeMetadata/v1/instance/zone": f"projects/31/zones/{attributes['zone']}"}
    if "accelerator_type" in attributes:
        known["/computeMetadata/v1/instance/attributes/accelerator-type"] = attributes["accelerator_type"]

    def answer(path: str, headers: dict[str, str]) -> tuple[int, str]:
        if headers.get("Metadata-Flavor") != "Google":
            return 403, "as Google's does"
        return (200, known[path]) if path in known else (404, "")

    with web_server(answer) as server:
        yield server
