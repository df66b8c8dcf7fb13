"""The slice of the settings: what it is now, and how it comes and goes."""

import time
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from cloud.errors import CloudError, DeletedError, NoCapacityError
from cloud.gcloud import Gcloud, explained

_NODE = ("compute", "tpus", "tpu-vm")
_REQUEST = ("compute", "tpus", "queued-resources")
_ON_ITS_WAY = ("CREATING", "STARTING", "RESTARTING", "REPAIRING")
_GONE = ("PREEMPTED", "TERMINATED")  # with their disks
_OVER = ("FAILED", "SUSPENDING", "SUSPENDED")  # of a request
_DELETING = "DELETING"  # of both
_SECONDS_BETWEEN_LOOKS = 20.0
_GUARD = Path(__file__).parent / "guard.py"


class Fate(Enum):
    """What became of a slice.

    ON_ITS_WAY: also what is stopped and would have to be started. TAKEN: by the cloud. NONE: never made, or deleted by
    somebody or by its deadline.
    """

    READY = "ready"
    ON_ITS_WAY = "on its way"
    TAKEN = "taken away"
    NONE = "not there"


class Slice:
    """Of one name in one zone. Every operation may be repeated, and goes on where an earlier one stopped."""

    def __init__(self, gcloud: Gcloud):
        self._gcloud, self._settings = gcloud, gcloud.settings
        self._where = (self._settings.name, f"--zone={self._settings.zone}")
        self._said = ""

    def node(self) -> dict[str, Any] | None:
        """As `gcloud compute tpus tpu-vm describe` has it; None where there is none."""
        found = self._gcloud.look(*_NODE, "describe", *self._where)
        assert found is None or isinstance(found, dict)
        return found

    def in_line(self) -> str | None:
        """The state of its place in the queue; None where it has none."""
        request = self._request() if self._settings.queued else None
        return None if request is None else _state_of(request)

    def fate(self) -> Fate:
        node = self.node()
        if node is not None:
            if node["state"] in _GONE:
                return Fate.TAKEN
            if node["state"] == _DELETING:
                return Fate.NONE
            return Fate.READY if node["state"] == "READY" else Fate.ON_ITS_WAY
        request = self._request() if self._settings.queued else None
        if request is None or _is_given_up(request):
            return Fate.NONE
        return Fate.TAKEN if _state_of(request) in _OVER else Fate.ON_ITS_WAY

    def create(self, hours: float | None) -> bool:
        """Until the slice is ready; whether it was made now. One that was taken away is made anew.

        hours: that it may live, None for ever; of one that is there already, nothing changes. NoCapacityError where the
        cloud has none to give, CloudError where another kind of slice has the name.
        """
        node = self.node()
        while node is not None and node["state"] == _DELETING:
            self._wait(_DELETING)
            node = self.node()
        if node is not None:
            self.check_type(node)
            if node["state"] not in _GONE:
                self._wait_until_ready()
                return False
            print(f"{self._settings.name} is {node['state']}; it is made anew", flush=True)
            self.delete()
        if self._settings.queued:
            self._stand_in_line(hours)
        else:
            self._gcloud.change(*_NODE, "create", *self._where, *self._of_node("--version", hours))
        return True

    def delete(self) -> bool:
        """Also of the place in line; whether there was anything. What is gone or going already is no error."""
        dry_run = self._gcloud.dry_run
        request = self._request()
        if dry_run or (request is not None and _state_of(request) != _DELETING):
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
        node = self.node()
        if dry_run or (node is not None and node["state"] != _DELETING):
            self._gcloud.change(*_NODE, "delete", *self._where)
        return request is not None or node is not None

    def check_type(self, node: dict[str, Any]) -> None:
        """CloudError where the settings speak of another TYPE, which may have other hosts."""
        found = str(node.get("acceleratorType", "")).rpartition("/")[2]
        if found != self._settings.type:
            raise CloudError(
                f"{self._settings.name} is there, but as {found}, and TYPE is {self._settings.type}; cloud/tpu delete "
                "it, or choose another NAME or TYPE"
            )

    def _of_node(self, runtime_option: str, hours: float | None) -> list[str]:
        own = self._settings
        end = [f"jaxgpt-hours={hours:.4g}"] if hours is not None else []
        given = {
            "--accelerator-type": own.type,
            runtime_option: own.runtime or own.slice.runtime,
            "--metadata": ",".join([f"jaxgpt-name={own.name}", *end]),
            "--metadata-from-file": f"startup-script={_GUARD}",
            "--network": own.network,
            "--subnetwork": own.subnetwork,
            "--service-account": own.service_account,
        }
        flags = ["--spot"] * own.spot + ["--internal-ips"] * (own.internal_ips == "yes")
        return [*(f"{name}={value}" for name, value in given.items() if value), *flags]

    def _wait_until_ready(self) -> None:
        while (state := self._way()) != "READY":
            self._wait(state)

    def _way(self) -> str:
        """How far it is; an error says why it does not come."""
        name, node = self._settings.name, self.node()
        if node is None:
            return self._place()
        state = str(node["state"])
        if state in _GONE:
            raise NoCapacityError(f"{name} became {state} while it was waited for; try again")
        if state == _DELETING:
            raise DeletedError(f"{name} is being deleted")
        if state not in (*_ON_ITS_WAY, "READY"):
            raise CloudError(
                f"{name} is {state}, and its disks are there; gcloud compute tpus tpu-vm start {name} "
                f"--zone={self._settings.zone}, or cloud/tpu delete"
            )
        return state

    def _place(self) -> str:
        """How far its place in the queue is, where there is no slice yet."""
        name = self._settings.name
        request = self._request() if self._settings.queued else None
        if request is None:
            what = f"the place of {name} in the queue" if self._settings.queued else name
            raise DeletedError(f"{what} was deleted meanwhile")
        state = _state_of(request)
        if _is_given_up(request):
            raise DeletedError(f"the place of {name} in the queue is {state}: somebody gave it up")
        if state == "FAILED":
            raise explained(_failure(request), self._settings)
        if state in _OVER:
            raise NoCapacityError(f"the request for {name} became {state}; try again")
        return state

    def _wait(self, state: str) -> None:
        """state: said where it is new."""
        said = f"{self._settings.name} is {state}"
        if said != self._said:
            print(said, flush=True)
            self._said = said
        time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _request(self) -> dict[str, Any] | None:
        found = self._gcloud.look(*_REQUEST, "describe", *self._where)
        assert found is None or isinstance(found, dict)
        return found

    def _stand_in_line(self, hours: float | None) -> None:
        request = self._request()
        while request is not None and _state_of(request) == _DELETING:
            self._wait(_DELETING)
            request = self._request()
        if request is not None and _state_of(request) in _OVER:
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
            request = None
        if request is None:
            node = f"--node-id={self._settings.name}"
            self._gcloud.change(*_REQUEST, "create", *self._where, node, *self._of_node("--runtime-version", hours))
        if not self._gcloud.dry_run:
            self._wait_until_ready()


def born(node: dict[str, Any]) -> datetime:
    """The time at which a slice was made."""
    return datetime.fromisoformat(node["createTime"][:19]).replace(tzinfo=UTC)  # Google's have nanoseconds


def hours_of(node: dict[str, Any]) -> float | None:
    """That a slice may live; None where it has no end."""
    hours = node.get("metadata", {}).get("jaxgpt-hours")
    return float(hours) if hours else None


def _state_of(request: dict[str, Any]) -> str:
    return str(request["state"]["state"])


def _is_given_up(request: dict[str, Any]) -> bool:
    """By somebody, and not by the cloud."""
    by_user = request["state"].get("stateInitiator") == "USER"
    return _state_of(request) == _DELETING or (by_user and _state_of(request) in ("SUSPENDING", "SUSPENDED"))


def _failure(request: dict[str, Any]) -> str:
    """What the cloud says of a request that FAILED."""
    error = request["state"].get("failedData", {}).get("error", {})
    return str(error.get("message") or "the request FAILED, and no reason is given")
