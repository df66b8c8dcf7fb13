import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from many_processes import free_port, python, run_all

from jaxgpt.config import Config, ParallelConfig
from jaxgpt.errors import UserError
from jaxgpt.train import greeting, hosts, roll_call
from jaxgpt.train.greeting import Host

IDENTITY = {"code": "abc", "config": {"seed": 1, "train": {"batch_size": 8, "max_steps": 5}}}
CLUSTER_VARIABLES = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "_GRACE", 1.0)
    monkeypatch.setattr(roll_call, "_RETRY", 0.05)
    monkeypatch.setattr(roll_call, "_SILENCE", 0.5)
    monkeypatch.setattr(roll_call, "_WORD_EVERY", 0.5)
    for name in CLUSTER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


class Process:
    """One host's side of the roll call, in a thread. error: why it was refused, None where all was well."""

    def __init__(
        self, index: int, count: int, address: str, wait: float = 10, identity: Any = IDENTITY, late: float = 0
    ):
        self.said: list[str] = []
        self.error: str | None = None
        self.seconds = 0.0
        own = Host(index, count, f"node{index}", identity)
        self._thread = threading.Thread(target=self._run, args=(own, address, wait, late))
        self._thread.start()

    def _run(self, own: Host, address: str, wait: float, late: float) -> None:
        time.sleep(late)
        began = time.monotonic()
        try:
            (roll_call.answer if own.index else roll_call.call)(own, address, wait, self.said.append)
        except UserError as error:
            self.error = str(error)
        self.seconds = time.monotonic() - began

    def done(self) -> "Process":
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self


def connection(address: str) -> socket.socket:
    """To a host 0 that begins at about the same time."""
    for _ in range(200):
        try:
            return socket.create_connection(roll_call.split_address(address))
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError(f"nobody listens at {address}")


def test_all_come(address: str) -> None:
    all_hosts = [Process(index, 4, address) for index in (2, 0, 3, 1)]
    assert [process.done().error for process in all_hosts] == [None] * 4
    first = all_hosts[1].said
    assert first[0] == "host 0 of 4: node0"
    assert sorted(first[1:]) == ["host 1 of 4: node1", "host 2 of 4: node2", "host 3 of 4: node3"]
    assert all_hosts[2].said == [f"host 3 of 4: node3, waits for host 0 at {address}, 10 s at most"]
    with closing(roll_call._listen(roll_call.split_address(address)[1])):
        pass  # the port is free again at once: JAX needs it


@pytest.mark.parametrize("late", [0, 1])
def test_a_late_host_is_waited_for_and_named(address: str, late: int) -> None:
    both = [Process(index, 2, address, late=1.2 if index == late else 0) for index in range(2)]
    assert [process.done().error for process in both] == [None, None]
    waiting = [line for line in both[0].said if line.startswith("waiting")]
    assert waiting == (["waiting for host 1 of 2, 9 s more"] * len(waiting) if late else [])
    assert len(waiting) == (2 if late else 0)


def test_missing_hosts_are_named_everywhere(address: str) -> None:
    came = [Process(index, 5, address, wait=1.5) for index in (0, 1, 3)]
    for process in came:
        assert process.done().error == (
            f"hosts 2, 4 of 5 did not come to {address} within 1.5 s; start the same command there, each with its own "
            "parallel.process_id, and check that the firewall of node0 lets port "
            f"{address.split(':')[1]} through"
        )
        assert process.seconds < 3


def test_nobody_at_the_address(address: str) -> None:
    alone = Process(1, 2, address, wait=1).done()
    assert re.fullmatch(
        rf"host 0 did not answer at {address} within 1 s \(.*refused\); .* firewall lets port .*", alone.error or ""
    )
    assert 0.8 < alone.seconds < 2


def test_something_else_at_the_address(address: str) -> None:
    with socket.create_server(roll_call.split_address(address)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                peer.sendall(b"\x00\x00\x12\x04\n")
                peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        alone = Process(1, 2, address, wait=1).done()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "something else answers there" in (alone.error or "")


def test_the_port_is_taken(address: str) -> None:
    port = roll_call.split_address(address)[1]
    with closing(roll_call._listen(port)), pytest.raises(UserError, match=f"port {port} of this machine"):
        roll_call.call(Host(0, 2, "node0", {}), address, 1, print)


def test_one_index_twice_is_refused_everywhere(address: str) -> None:
    here = [Process(0, 3, address), Process(1, 3, address), Process(1, 3, address), Process(2, 3, address, late=0.5)]
    expected = "two processes say that they are host 1: node1 and node1; give each its own parallel.process_id"
    assert [process.done().error for process in here] == [expected] * 4


def test_host_0_twice(address: str) -> None:
    own = Host(0, 2, "node9", IDENTITY)
    first = Process(0, 2, address)
    with connection(address) as second:
        second.sendall(greeting.hello(own))
        heard = greeting.parse(second.makefile("rb").readline())
    assert first.done().error == (
        "two processes say that they are host 0: node0 and node9; give each its own parallel.process_id"
    )
    assert heard == {"roll_call": "jaxgpt", "refused": first.error}


def test_another_count_is_refused_everywhere(address: str) -> None:
    here = [Process(0, 3, address), Process(1, 4, address), Process(2, 3, address, late=0.3)]
    expected = (
        "host 1 (node1) says there are 4 hosts, host 0 (node0) says 3; start all of them with the same "
        "parallel.num_processes"
    )
    assert [process.done().error for process in here] == [expected] * 3


def test_a_host_too_many(address: str) -> None:
    here = [Process(0, 2, address), Process(2, 2, address)]
    for process in here:
        assert process.done().error == (
            "node2 says it is host 2, but the hosts are 0 to 1; start it with another parallel.process_id, or not at "
            "all"
        )


def test_differences_are_shown_everywhere(address: str) -> None:
    other = {"code": "xyz", "config": {"seed": 1, "train": {"batch_size": 16, "max_steps": 6}, "new": [1]}}
    here = [Process(0, 3, address), Process(1, 3, address), Process(2, 3, address, identity=other, late=0.2)]
    expected = (
        'host 2 (node2) and host 0 (node0) are not alike: code is "xyz" there and "abc" on host 0, '
        "config.train.batch_size is 16 there and 8 on host 0, config.train.max_steps is 6 there and 5 on host 0 and 1 "
        "more; start the same code with the same configuration on every host"
    )
    assert [process.done().error for process in here] == [expected] * 3


def test_a_field_that_is_absent_differs_from_null() -> None:
    assert greeting.differences({"a": None, "b": (1, 2)}, {"b": [1, 2]}) == ["a is absent there and null on host 0"]
    assert greeting.differences({"a": {}}, {"a": {"b": 1}}) == [
        "a is absent there and {} on host 0",
        "a.b is 1 there and absent on host 0",
    ]


STRANGERS: dict[str, Callable[[socket.socket], None]] = {
    "garbage": lambda peer: peer.sendall(b"\xff\xfe\x00garbage\n"),
    "a scanner": lambda peer: peer.sendall(b"GET / HTTP/1.1\r\n\r\n"),
    "deep": lambda peer: peer.sendall(b"[" * 200_000 + b"\n"),
    "another program's": lambda peer: peer.sendall(b'{"index": 1, "count": 2, "name": "x", "identity": {}}\n'),
    "wrong types": lambda peer: peer.sendall(greeting.line({"index": "1", "count": 2, "name": "x", "identity": {}})),
    "a terminal's escape": lambda peer: peer.sendall(greeting.hello(Host(1, 2, "\x1b[2J", IDENTITY))),
    "nothing": lambda peer: None,
    "half a line": lambda peer: peer.sendall(greeting.hello(Host(1, 2, "x", IDENTITY))[:-9]),
    "gone": lambda peer: peer.close(),
}


@pytest.fixture(scope="module")
def after_strangers() -> Iterator[tuple[Process, Process]]:
    """Both hosts of a run, of which the second came after all the strangers."""
    address = f"127.0.0.1:{free_port()}"
    first = Process(0, 2, address)
    with ExitStack() as stack:
        for send in STRANGERS.values():
            send(stack.enter_context(connection(address)))
        yield first, Process(1, 2, address, late=0.2).done()


def test_strangers_neither_stop_nor_stall_it(after_strangers: tuple[Process, Process]) -> None:
    first, second = after_strangers
    assert first.done().error is None
    assert second.error is None
    assert first.said == ["host 0 of 2: node0", "host 1 of 2: node1"]
    assert second.seconds < 1.5


def test_an_endless_line_is_cut_off(address: str) -> None:
    first = Process(0, 2, address)
    with connection(address) as peer, pytest.raises(OSError, match=r"reset|pipe|aborted"):
        peer.sendall(b"x" * (100 << 20))
    assert Process(1, 2, address).done().error is None
    assert first.done().error is None


def test_a_silent_connection_is_closed(address: str) -> None:
    first = Process(0, 2, address)
    with connection(address) as peer:
        peer.settimeout(5)
        assert peer.recv(1) == b""
    assert Process(1, 2, address).done().error is None
    assert first.done().error is None


def test_a_host_that_is_started_again_is_no_twin(address: str) -> None:
    first = Process(0, 3, address)
    with connection(address) as killed:
        killed.sendall(greeting.hello(Host(1, 3, "node1", IDENTITY)))
        time.sleep(0.2)
    rest = [Process(1, 3, address, late=0.3), Process(2, 3, address, late=0.6)]
    assert [process.done().error for process in (first, *rest)] == [None] * 3
    assert first.said.count("host 1 of 3: node1") == 2
    assert "host 1 (node1) went away again" in first.said


def test_host_0_that_is_started_again_is_found(address: str) -> None:
    second = Process(1, 2, address)
    with socket.create_server(roll_call.split_address(address)) as dying:
        dying.accept()[0].close()
    first = Process(0, 2, address)
    assert first.done().error is None
    assert second.done().error is None


@pytest.mark.parametrize("address", ["node0", ":80", "node0:", "node0:http", "node0:0", "node0:65536"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UserError, match=r"parallel\.coordinator is .* it must be HOST:PORT"):
        roll_call.split_address(address)


def test_addresses() -> None:
    assert roll_call.split_address("node0:8482") == ("node0", 8482)
    assert roll_call.split_address("[::1]:8482") == ("::1", 8482)


def test_a_machine_alone_starts_nothing() -> None:
    said: list[str] = []
    assert hosts.join(ParallelConfig(), {}, said.append) == hosts.Hosts(0, 1)
    alone = ParallelConfig(coordinator="localhost:1", num_processes=1, process_id=0)
    assert hosts.join(alone, {}, said.append).is_first
    assert said == []


def test_join_calls_the_roll_first(address: str) -> None:
    """JAX is not asked before all are here and alike: of three hosts, two of different code are threads here."""
    errors: list[str] = []

    def join(index: int) -> None:
        cfg = ParallelConfig(coordinator=address, num_processes=3, process_id=index, wait=5)
        with pytest.raises(UserError) as error:
            hosts.join(cfg, {"code": index}, lambda line: None)
        errors.append(str(error.value))

    threads = [threading.Thread(target=join, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    name = socket.gethostname()
    expected = (
        f"host 1 ({name}) and host 0 ({name}) are not alike: code is 1 there and 0 on host 0; start the same code"
    )
    assert [error[: len(expected)] for error in errors] == [expected] * 2


def test_slurm_and_open_mpi_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"JOB_ID": "4096", "STEP_NODELIST": "n[07-09]", "NTASKS": "3", "PROCID": "2", "LOCALID": "0"}
    with monkeypatch.context() as patch:
        for name, value in slurm.items():
            patch.setenv(f"SLURM_{name}", value)
        assert hosts._found(1) == hosts._Place("n07:61440", hosts.Hosts(2, 3), "slurm")
        patch.setenv("SLURM_NTASKS", "1")
        assert hosts._found(1) is None
        patch.setenv("SLURM_NTASKS", "several")
        with pytest.raises(UserError, match=r"machine of Slurm.*several.*--parallel\.coordinator HOST:PORT"):
            hosts._found(1)
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "4096.0;tcp://10.96.0.1:34911")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert hosts._found(1) == hosts._Place("10.96.0.1:61441", hosts.Hosts(1, 2), "ompi")


def test_another_jax_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)
    with pytest.raises(UserError, match=r"jax 0\..* does not tell .*--parallel\.process_id"):
        hosts.join(ParallelConfig(), {}, print)


def test_identity_leaves_out_what_differs_by_host(tmp_path: Path) -> None:
    def of(**parallel: Any) -> dict[str, Any]:
        return hosts.identity_of(asdict(Config(output="run", parallel=ParallelConfig(**parallel))))

    first = of(coordinator="a:1", num_processes=2, process_id=0)
    assert first == of(coordinator="b:2", num_processes=2, process_id=1)
    assert first != of(coordinator="a:1", num_processes=3, process_id=0)
    assert first["config"]["output"] == "run"
    assert greeting.differences(first, json.loads(json.dumps(first))) == []


def test_the_hash_sees_every_source_file(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    seen = {hosts._hash_of_code(tmp_path)}
    for path, text in (("a.py", "x"), ("room/b.py", "x"), ("room/b.py", "y"), ("room/c.py", "")):
        (tmp_path / path).write_text(text)
        seen.add(hosts._hash_of_code(tmp_path))
    assert len(seen) == 5
    (tmp_path / "notes.txt").write_text("x")
    assert hosts._hash_of_code(tmp_path) in seen


JOIN = """
import sys, time
from jaxgpt.config import ParallelConfig
from jaxgpt.errors import UserError
from jaxgpt.train import hosts
coordinator, count, index, wait, behind = sys.argv[1:]
initialize = hosts.jax.distributed.initialize
def slow(*args, **kwargs):
    time.sleep(float(behind))
    initialize(*args, **kwargs)
hosts.jax.distributed.initialize = slow
try:
    joined = hosts.join(ParallelConfig("pmap", coordinator, int(count), int(index), int(wait)), {}, print)
except UserError as error:
    sys.exit(f"error: {error}")
import jax, numpy as np
assert (joined.index, joined.count) == (jax.process_index(), jax.process_count())
n_own = jax.local_device_count()
numbers = (1 + joined.index) * np.ones(n_own)
total = jax.pmap(lambda x: jax.lax.psum(x, "i"), axis_name="i")(numbers)
print(len(jax.devices()), [float(shard.data[0]) for shard in total.addressable_shards])
hosts.leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_become_one_jax(address: str, count: int) -> None:
    """Host 0 takes its time between the roll call and JAX's service, so the others knock at a closed port first."""
    finished = run_all([python(JOIN, address, count, i, 60, 1.5 if i == 0 else 0) for i in range(count)])
    total = 2.0 * sum(range(1, count + 1))
    for index, process in enumerate(finished):
        assert process.exit_code == 0, process.error
        assert process.out.splitlines()[-1] == f"{2 * count} {[total, total]}"
        said = [line for line in process.out.splitlines() if line.startswith("host")]
        assert len(said) == (count if index == 0 else 1)
        assert said[0].startswith(f"host {index} of {count}: {socket.gethostname()}")
