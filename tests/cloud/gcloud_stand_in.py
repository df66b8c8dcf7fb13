"""A `gcloud` for tests: slices are entries of a file, their hosts are folders, and ssh runs processes on this machine.

Run as a program it answers as gcloud does: texts, exit codes and JSON as SDK 528 has them. Its world is the folder in
GCLOUD_WORLD: state.json, calls.jsonl (each command line), hosts/NAME/WORKER (their homes), bin (their programs).
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HOSTS = {"v3-8": 1, "v4-16": 2, "v3-32": 4, "v3-128": 16}
_WHO = "(gcloud.compute.tpus."


class World:
    """What the stand-in knows, and what tests do to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        """To be looked at or changed, by one process at a time."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self.folder / "state.json"
            empty: dict[str, Any] = {"nodes": {}, "requests": {}, "faults": [], "unreachable": [], "hanging": []}
            known = json.loads(file.read_text()) if file.is_file() else empty
            try:
                yield known
            finally:
                file.write_text(json.dumps(known, indent=1))

    def fail(self, pattern: str, said: str, *, times: int = 1, code: int = 1) -> None:
        """The next commands that match end with this."""
        with self.state() as state:
            state["faults"].append({"pattern": pattern, "said": said, "times": times, "code": code})

    def calls(self, pattern: str = "") -> list[str]:
        """Command lines so far, as one text each."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [line for line in (" ".join(json.loads(line)) for line in lines) if re.search(pattern, line)]

    def home(self, worker: int, name: str = "jaxgpt") -> Path:
        return self.folder / "hosts" / name / str(worker)

    def host_state(self, worker: int, name: str = "jaxgpt") -> dict[str, Any]:
        return json.loads((self.home(worker, name) / "jaxgpt" / "state.json").read_text())

    def kill(self, worker: int, name: str = "jaxgpt") -> None:
        """All processes of a host's training, as if the machine had failed."""
        with suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(self.host_state(worker, name)["group"], signal.SIGKILL)

    def finish(self, code: int = 0, workers: int = 2, name: str = "jaxgpt") -> None:
        """Ends the trainings that only act, as if by themselves."""
        for worker in range(workers):
            whole = self.home(worker, name) / "end.new"
            whole.write_text(str(code))
            whole.rename(whole.with_name("end"))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if all(self.host_state(worker, name)["exit"] is not None for worker in range(workers)):
                return
            time.sleep(0.02)

    def cut(self, *workers: int) -> None:
        """From now on these and no others have no ssh."""
        with self.state() as state:
            state["unreachable"] = list(workers)

    def preempt(self, name: str = "jaxgpt") -> None:
        """As the cloud does: the machines and their disks are gone, the name stays."""
        with self.state() as state:
            state["nodes"][name]["state"] = "PREEMPTED"
        for worker in range(len(list((self.folder / "hosts" / name).iterdir()))):
            self.kill(worker)
        # In a moment: what still writes there writes to nobody.
        (self.folder / "hosts" / name).rename(self.folder / f"gone-{time.monotonic_ns()}")

    def close(self) -> None:
        """No process outlives its test."""
        for home in (self.folder / "hosts").glob("*/*"):
            self.kill(int(home.name), home.parent.name)


class _FailError(Exception):
    def __init__(self, said: str, code: int = 1):
        super().__init__(said)
        self.said, self.code = said, code


def answer(world: World, arguments: list[str]) -> int:
    """Exit code; what is said goes to stdout and stderr."""
    line = " ".join(arguments)
    with world.state() as state:
        with (world.folder / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(arguments) + "\n")
        for fault in state["faults"]:
            if fault["times"] and re.search(fault["pattern"], line):
                fault["times"] -= 1
                raise _FailError(fault["said"], fault["code"])
    if arguments[0] in ("storage", "logging", "projects", "config"):
        import bucket_gcloud

        code, out, error = bucket_gcloud.answer(arguments, world.folder / "buckets.json")
        print(out, end="")
        print(error, end="", file=sys.stderr)
        return code
    assert arguments[:2] == ["compute", "tpus"], arguments
    kind, verb, name = arguments[2:5]
    options = dict(argument[2:].split("=", 1) for argument in arguments[5:] if "=" in argument)
    if verb == "ssh":
        return _ssh(world, name, int(options["worker"]), options.get("command"))
    with world.state() as state:
        known = state["nodes"] if kind == "tpu-vm" else state["requests"]
        what = "nodes" if kind == "tpu-vm" else "queuedResources"
        resource = f"projects/my-project/locations/{options['zone']}/{what}/{name}"
        if verb == "create" and name in known:
            raise _FailError(f"ERROR: {_WHO}{kind}.create) ALREADY_EXISTS: Resource '{resource}' already exists.")
        if verb != "create" and name not in known:
            raise _FailError(f"ERROR: {_WHO}{kind}.{verb}) NOT_FOUND: Resource '{resource}' was not found")
        if verb == "describe":
            if kind == "queued-resources":
                _move_on(world, state, name)
            print(json.dumps(known[name], indent=2))
        elif verb == "delete":
            del known[name]
            for home in (world.folder / "hosts" / name).glob("*"):
                world.kill(int(home.name), name)
            state["unreachable"], state["hanging"] = [], []  # of machines that are gone now
            if kind == "queued-resources":
                state["nodes"].pop(name, None)
            if (world.folder / "hosts" / name).is_dir():
                (world.folder / "hosts" / name).rename(world.folder / f"gone-{time.monotonic_ns()}")
            print(f"Delete request issued for: [{name}]\nDeleted {kind} [{name}].", file=sys.stderr)
        elif kind == "tpu-vm":
            known[name] = _node(world, resource, name, options, "--spot" in arguments)
            print(f"Create request issued for: [{name}]\nCreated tpu [{name}].", file=sys.stderr)
        else:
            known[name] = {"name": resource, "state": {"state": "ACCEPTED"}, "options": options}
            print(f"Create request issued for: [{name}]", file=sys.stderr)
    return 0


def _node(world: World, resource: str, name: str, options: dict[str, str], spot: bool) -> dict[str, Any]:
    count = HOSTS[options["accelerator-type"]]
    for worker in range(count):
        world.home(worker, name).mkdir(parents=True)
    zone = options["zone"]
    return {
        "acceleratorType": options["accelerator-type"],
        "createTime": f"{datetime.now(tz=UTC):%Y-%m-%dT%H:%M:%S}.123456789Z",
        "health": "HEALTHY",
        "metadata": dict(pair.split("=", 1) for pair in options.get("metadata", "").split(",") if pair),
        "name": resource,
        "networkEndpoints": [{"ipAddress": f"10.164.0.{worker}", "port": 8470} for worker in range(count)],
        "runtimeVersion": options.get("version") or options["runtime-version"],
        "schedulingConfig": {"spot": True} if spot else {},
        "state": "READY",
        "zone": zone,
    }


def _move_on(world: World, state: dict[str, Any], name: str) -> None:
    """A place in the queue goes one state on each time that somebody looks."""
    request = state["requests"][name]
    order = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    at = request["state"]["state"]
    if at in order[:-1]:
        request["state"]["state"] = order[order.index(at) + 1]
    if request["state"]["state"] == "ACTIVE" and name not in state["nodes"] and not request.get("late"):
        resource = request["name"].replace("queuedResources", "nodes")
        state["nodes"][name] = _node(world, resource, name, request["options"], False)


def _ssh(world: World, name: str, worker: int, command: str | None) -> int:
    with world.state() as state:
        node = state["nodes"].get(name)
        port = state.setdefault("port", _free_port())
        unreachable, hanging = worker in state["unreachable"], worker in state["hanging"]
    if node is None:
        raise _FailError(f"ERROR: {_WHO}tpu-vm.ssh) NOT_FOUND: Resource '{name}' was not found")
    print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr)
    if unreachable or node["state"] != "READY":
        raise _FailError(
            f"ssh: connect to host 34.90.1.{worker} port 22: Connection timed out\n"
            f"ERROR: {_WHO}tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255].",
            255,
        )
    if hanging:
        time.sleep(600)
    assert command is not None, "tests have no terminal"
    # As JAX finds the processes of a cluster; a TPU's hosts would find each other by their metadata server.
    cluster = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(len(node["networkEndpoints"])),
        "SLURM_PROCID": str(worker),
        "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0",
    }
    passed = ("STORAGE_EMULATOR_HOST", "JAX_COMPILATION_CACHE_DIR", "GCE_METADATA_HOST", "STAND_IN_DELAY")
    environment = {name: os.environ[name] for name in passed if name in os.environ} | cluster
    environment |= {"HOME": str(world.home(worker, name)), "PATH": f"{world.folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], env=environment, check=False)
    if done.returncode:
        print(f"ERROR: {_WHO}tpu-vm.ssh) [/usr/bin/ssh] exited with return code [{done.returncode}].", file=sys.stderr)
    return done.returncode


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    try:
        sys.exit(answer(World(Path(os.environ["GCLOUD_WORLD"])), sys.argv[1:]))
    except _FailError as error:
        print(error.said, file=sys.stderr)
        sys.exit(error.code)
