"""The processes of one run, on one machine or many: who they are, and how they become one JAX.

Every process runs the same command. Where they are is given in `parallel`, or known to JAX on Cloud TPU, under Slurm
and under Open MPI. They call the roll first (`roll_call.py`), because `jax.distributed.initialize` waits for a missing
host without naming it, and would let hosts of other code or another configuration train together.
"""

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import ParallelConfig
from jaxgpt.errors import UserError
from jaxgpt.train import roll_call
from jaxgpt.train.greeting import Host

# JAX's names of the clusters that it finds by itself, and ours.
_CLUSTERS = {"ompi": "Open MPI", "slurm": "Slurm", "gketpu": "Cloud TPU", "gcetpu": "Cloud TPU"}
_GIVE_THEM = "give --parallel.coordinator HOST:PORT --parallel.num_processes N --parallel.process_id I"
_SHUTDOWN_SECONDS = 24 * 3600
_MAY_DIFFER = ("coordinator", "process_id")  # of the section parallel


@dataclass(frozen=True)
class Hosts:
    """Which of the processes this is. index: from 0."""

    index: int
    count: int

    @property
    def is_first(self) -> bool:
        return self.index == 0


@dataclass(frozen=True)
class _Place:
    """cluster: JAX's name of what told it, or `deactivate`, its word for none."""

    coordinator: str
    hosts: Hosts
    cluster: str


def identity_of(config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same on all hosts: code, versions and configuration. config: the run's, resolved."""
    parallel = {name: value for name, value in config["parallel"].items() if name not in _MAY_DIFFER}
    data = {name: value for name, value in config["data"].items() if name != "cache"}
    try:
        version = metadata.version("jaxgpt")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {
        "jaxgpt": version,
        "code": _hash_of_code(Path(__file__).parents[1]),
        "jax": jax.__version__,
        "config": {**config, "parallel": parallel, "data": data},
    }


def _hash_of_code(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def join(cfg: ParallelConfig, identity: dict[str, Any], say: Callable[[str], None]) -> Hosts:
    """Returns when all processes of the run are here and alike, as one JAX; alone it starts nothing.

    Call it before anything that asks JAX for a device. Where a cluster of Slurm or Open MPI starts a process per GPU, a
    process has that GPU alone, which is JAX's rule; JAX_LOCAL_DEVICE_IDS says otherwise.

    identity: see `identity_of`; say: takes a line for the user.
    Raises UserError within about cfg.wait seconds, on every process that it reaches: host 0 unreachable, hosts missing,
    an index given twice, other counts, other identities.
    """
    place = _given(cfg) or _found(cfg.wait)
    if place is None or place.hosts.count == 1:
        return Hosts(0, 1)
    hosts = place.hosts
    own = Host(hosts.index, hosts.count, socket.gethostname(), identity)
    meet = roll_call.call if hosts.is_first else roll_call.answer
    meet(own, place.coordinator, cfg.wait, say)
    # Its handler of SIGTERM would take the signal from ours, whose wish travels with the steps; see signals.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            place.coordinator,
            hosts.count,
            hosts.index,
            cluster_detection_method=place.cluster,
            initialization_timeout=cfg.wait,
            # The first host may be at work on its last checkpoint; one that died is found by its heartbeat.
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"all {hosts.count} hosts were there, but JAX could not connect them at {place.coordinator} within "
            f"{cfg.wait} s ({error}); start the same command on every host again"
        ) from error
    return hosts


def leave() -> None:
    """Ends what `join` began; waits for the other processes, so it is for runs that end well everywhere."""
    jax.distributed.shutdown()


def find_hosts(cfg: ParallelConfig) -> tuple[Hosts, str | None]:
    """Which of how many this is, without waiting for the others, and what told it: a cluster, an option, or nothing.

    Raises UserError where a cluster does not say it.
    """
    place = _given(cfg) or _found(cfg.wait)
    return (place.hosts, _CLUSTERS.get(place.cluster, "parallel.coordinator")) if place else (Hosts(0, 1), None)


def _given(cfg: ParallelConfig) -> _Place | None:
    if cfg.coordinator is None or cfg.process_id is None or cfg.num_processes is None:
        return None
    return _Place(cfg.coordinator, Hosts(cfg.process_id, cfg.num_processes), "deactivate")


def _found(wait: int) -> _Place | None:
    """What JAX would find out for itself; None outside of clusters.

    It is private to JAX, but `jax.distributed.initialize` is too late: the roll is called before it.
    """
    try:
        from jax._src.clusters import ClusterEnv

        known = [cluster for cluster in ClusterEnv._cluster_types if cluster.name in _CLUSTERS]
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"jax {jax.__version__} does not tell jaxgpt whether this is a cluster ({error}); {_GIVE_THEM} (alone: "
            "localhost:8482, 1 and 0)"
        ) from error
    for cluster in known:
        try:
            if not cluster.is_env_present():
                continue
            hosts = Hosts(cluster.get_process_id(), cluster.get_process_count())
            if hosts.count == 1:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            coordinator = cluster.get_coordinator_address(timeout_secs=wait, override_coordinator_port=port)
        except (OSError, RuntimeError, LookupError, ValueError, ImportError) as error:
            raise UserError(
                f"this is a machine of {_CLUSTERS[cluster.name]}, which did not say where the other hosts are "
                f"({type(error).__name__}: {error}); {_GIVE_THEM}"
            ) from error
        return _Place(coordinator, hosts, cluster.name)
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:  # newer ones no longer tell JAX where host 0 is
        raise UserError(f"this version of Open MPI does not say where the other hosts are; {_GIVE_THEM}")
    return None
