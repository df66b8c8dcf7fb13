"""All checks, in their order. Those that wait for something do so at the same time, each for as long as it may."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from jaxgpt.config import Config
from jaxgpt.data.storage import is_remote
from jaxgpt.doctor.bucket import check_place
from jaxgpt.doctor.check import Check, Line
from jaxgpt.doctor.devices import check_devices, limit
from jaxgpt.doctor.hardware import Hardware, find_hardware
from jaxgpt.doctor.machine import check_disks, check_memory
from jaxgpt.doctor.metadata_server import zone
from jaxgpt.doctor.pages import check_pages
from jaxgpt.doctor.versions import check_versions
from jaxgpt.doctor.wandb_key import check_wandb

_SECONDS = 20.0  # for what looks at this machine
_NETWORK_SECONDS = 45.0  # gcsfs alone tries again for half a minute
_TIDY_SECONDS = 5.0  # for what was tried out to be deleted again


@dataclass(frozen=True)
class Asked:
    """cfg: defaults stand for what was not given. has_config, has_data: whether the lines about it were asked for.

    bucket: beside those of cfg, None for none; wait: seconds for other hosts.
    """

    cfg: Config
    has_config: bool
    has_data: bool
    bucket: str | None
    all_hosts: bool
    wait: int


def examine(asked: Asked) -> Iterator[Line]:
    """The lines, each as soon as it and those before it are known."""
    cfg = asked.cfg if asked.has_config else None
    parallel = asked.cfg.parallel
    # What the devices are like must be known before JAX takes them.
    first, machine = _find_machine()
    checks = [
        Check("packages", lambda: check_versions(machine), _SECONDS),
        Check(
            "devices",
            lambda: check_devices(cfg, parallel, machine, asked.all_hosts, asked.wait),
            limit(asked.all_hosts, asked.wait) + _SECONDS,
        ),
        Check("disk", lambda: check_disks(cfg), _SECONDS),
        Check("memory", lambda: check_memory(cfg, machine), _SECONDS),
    ]
    places = [
        Check("bucket", partial(check_place, url, writes), _NETWORK_SECONDS) for url, writes in _places(asked).items()
    ]
    checks += places
    if asked.has_data:
        checks.append(Check("pages", lambda: check_pages(asked.cfg, asked.has_config), _NETWORK_SECONDS))
    if cfg:
        checks.append(Check("wandb", lambda: check_wandb(cfg.log.wandb, machine), _NETWORK_SECONDS))
    try:
        yield from first
        for check in checks:
            yield from check.lines()
    finally:  # Ctrl-C must leave nothing behind in a bucket
        for place in places:
            place.wait(_TIDY_SECONDS)


def _find_machine() -> tuple[list[Line], Hardware]:
    """Its line, and what was found: no accelerator where that could not be found out."""
    found = []

    def find() -> Iterator[Line]:
        found.append(find_hardware())
        yield _this_machine(found[0])

    lines = Check("machine", find, _SECONDS).lines()
    return lines, found[0] if found else Hardware()


def _this_machine(machine: Hardware) -> Line:
    here = zone()
    said = f"{socket.gethostname()}{f' in {here}' if here else ''}: {machine}"
    if machine.tpu_type and not machine.tpu_chips:
        said += f", although it is a host of a {machine.tpu_type}; start the container with --privileged"
        return Line("fail", "machine", said)
    return Line("ok", "machine", said)


def _places(asked: Asked) -> dict[str, bool]:
    """Folders in buckets, and the one that was named, with whether something is to be written there."""
    places = {}
    if asked.has_data and is_remote(asked.cfg.data.path):
        places[asked.cfg.data.path] = False
    mirror = asked.cfg.checkpoint.mirror if asked.has_config else None
    return places | {place: True for place in (mirror, asked.bucket) if place is not None}
