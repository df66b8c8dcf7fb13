"""The guard that deletes a slice from within, against a metadata server and an API on loopback."""

import ast
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

GUARD = Path(__file__).parents[2] / "cloud" / "guard.py"


class Cloud:
    """metadata: path below computeMetadata/v1/ -> text; deleted: what was asked for; answers: the next codes."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.metadata = {
            "instance/zone": "projects/123/zones/us-central1-a",
            "project/project-id": "my-project",
            "instance/attributes/jaxgpt-name": "mine",
            "instance/attributes/agent-worker-number": "0",
            "instance/service-accounts/default/token": json.dumps({"access_token": "pass"}),
        }
        self.deleted: list[str] = []
        self.answers: list[int] = []
        self.garbage = 0  # of answers that are none
        self.failures = 0  # of the metadata server, before it is well
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = cloud.metadata.get(self.path.removeprefix("/computeMetadata/v1/"))
                allowed = self.headers["Metadata-Flavor"] == "Google"
                cloud.failures -= 1
                if cloud.garbage:
                    cloud.garbage -= 1
                    self.wfile.write(b"no HTTP at all\r\n\r\n")
                    return
                self.send_response(503 if cloud.failures >= 0 else 403 if not allowed else 404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def do_DELETE(self) -> None:
                cloud.deleted.append(f"{self.headers['Authorization']} {self.path}")
                if cloud.garbage:
                    cloud.garbage -= 1
                    self.wfile.write(b"no HTTP at all\r\n\r\n")
                    return
                self.send_response(cloud.answers.pop(0) if cloud.answers else 404)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.at = f"127.0.0.1:{self.server.server_address[1]}"

    def guard(self, *arguments: str, timeout: float = 20) -> str:
        """What it says. Its pauses are no longer than a tenth of a second."""
        code = (
            f"import runpy, time; s = time.sleep; time.sleep = lambda t: s(min(t, 0.1)); runpy.run_path({str(GUARD)!r}"
        )
        environment = {
            "PATH": f"{self.kept.parent}:{os.environ['PATH']}",
            "GCE_METADATA_HOST": self.at,
            "JAXGPT_TPU_API": f"http://{self.at}",
        }
        environment["JAXGPT_GUARD"] = str(self.kept)
        command = [sys.executable, "-c", f"{code}, run_name='__main__')", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=timeout
        ).stdout


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "guard")
    yield made
    made.server.shutdown()


WHERE = "/v2/projects/my-project/locations/us-central1-a"
BOTH = [f"Bearer pass {WHERE}/queuedResources/mine?force=true", f"Bearer pass {WHERE}/nodes/mine"]


def wait_for(cloud: Cloud, deletions: int) -> float:
    """The time at which so many were asked for."""
    until = time.monotonic() + 15
    while len(cloud.deleted) < deletions and time.monotonic() < until:
        time.sleep(0.02)
    assert len(cloud.deleted) >= deletions
    return time.time()


def test_after_its_hours_the_slice_is_deleted_with_its_place_in_the_queue(cloud: Cloud) -> None:
    cloud.metadata["instance/attributes/jaxgpt-hours"] = str(2 / 3600)
    cloud.answers = [200, 200]
    cloud.failures = 3
    began = time.time()
    cloud.guard()
    assert time.time() - began < 1.9  # the machine goes on starting
    assert not cloud.deleted
    assert wait_for(cloud, 4) - began >= 2
    assert cloud.deleted == 2 * BOTH
    time.sleep(0.2)
    log = (cloud.kept.parent / "guard.log").read_text().splitlines()
    assert [line.partition(" deletion of ")[2] for line in log] == ["mine: 200; 200", "mine: 404; 404"]


def test_a_machine_that_starts_again_keeps_its_deadline(cloud: Cloud) -> None:
    cloud.metadata["instance/attributes/jaxgpt-hours"] = "24"
    (cloud.kept.parent / "guard.deadline").write_text(str(time.time() + 0.3))
    cloud.guard()
    wait_for(cloud, 2)


def test_where_the_first_host_is_dead_the_others_ask(cloud: Cloud) -> None:
    cloud.metadata["instance/attributes/agent-worker-number"] = "3"
    cloud.metadata["instance/attributes/jaxgpt-hours"] = "1"
    # Two minutes later for each host before it.
    (cloud.kept.parent / "guard.deadline").write_text(str(time.time() - 3 * 120 + 0.5))
    began = time.time()
    cloud.guard()
    assert wait_for(cloud, 2) - began > 0.3


def test_what_fails_is_asked_for_again(cloud: Cloud) -> None:
    cloud.answers = [404, 503, 404, 403, 404, 200]
    said = cloud.guard("now").splitlines()
    expected = ["404; 503", "404; 403", "404; 200", "404; 404"]
    assert [line.partition("deletion of mine: ")[2] for line in said] == expected
    assert cloud.deleted == 4 * BOTH


def test_without_a_token_it_goes_on_asking(cloud: Cloud) -> None:
    token = cloud.metadata.pop("instance/service-accounts/default/token")
    threading.Timer(1, lambda: cloud.metadata.update({"instance/service-accounts/default/token": token})).start()
    said = cloud.guard("now").splitlines()
    assert "no token: HTTP Error 404" in said[0]
    assert said[-1].endswith("404; 404")
    assert cloud.deleted[-2:] == BOTH  # the token may come between two questions


def test_without_hours_nothing_happens(cloud: Cloud) -> None:
    cloud.guard()
    time.sleep(0.3)
    assert not cloud.deleted


def test_the_end_of_a_run_is_the_first_hosts_to_tell(cloud: Cloud) -> None:
    cloud.metadata["instance/attributes/agent-worker-number"] = "3"
    cloud.guard("now")
    assert not cloud.deleted


@pytest.mark.parametrize("file", ["guard.py", "host.py"])
def test_what_hosts_run_is_understood_by_older_pythons(file: str) -> None:
    ast.parse((GUARD.parent / file).read_text(), feature_version=(3, 8))


def test_broken_answers_are_asked_for_again(cloud: Cloud) -> None:
    cloud.metadata["instance/attributes/jaxgpt-hours"] = str(1 / 3600)
    cloud.garbage = 2  # of the metadata server
    cloud.guard()
    threading.Timer(0.3, lambda: setattr(cloud, "garbage", 3)).start()  # of the API, and of the metadata server
    wait_for(cloud, 2)
    until = time.monotonic() + 15
    log = cloud.kept.parent / "guard.log"
    while "404; 404" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.02)
    assert log.read_text().splitlines()[-1].endswith("404; 404")


def test_before_the_end_the_training_is_asked_to_save(cloud: Cloud) -> None:
    asked = cloud.kept.parent / "asked"
    pkill = cloud.kept.parent / "pkill"
    pkill.write_text(f'#!/bin/sh\ndate +%s.%N > {asked}\necho "$*" >> {asked}\n')
    pkill.chmod(0o755)
    cloud.metadata["instance/attributes/jaxgpt-hours"] = "1"
    deadline = time.time() + 302
    (cloud.kept.parent / "guard.deadline").write_text(str(deadline))
    cloud.guard()
    until = time.monotonic() + 15
    while not (asked.is_file() and len(asked.read_text().splitlines()) == 2) and time.monotonic() < until:
        time.sleep(0.02)
    when, arguments = asked.read_text().splitlines()
    assert 0 <= float(when) - (deadline - 300) < 1.5
    assert arguments == "-TERM -f jaxgpt/venv/bin/jaxgpt train"
    assert not cloud.deleted
