"""The slice of the settings: what it is now, and how it comes and goes."""

import time
from enum import Enum
from pathlib import Path
from typing import Any

from cloud.errors import CloudError, DeletedError, NoCapacityError
from cloud.gcloud import Gcloud

_NODE = ("compute", "tpus", "tpu-vm")
_REQUEST = ("compute", "tpus", "queued-resources")
_ON_ITS_WAY = ("CREATING", "STARTING", "RESTARTING", "REPAIRING")
_GONE = ("PREEMPTED", "TERMINATED")  # with their disks
_WAITS = ("CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES")
_OVER = ("FAILED", "SUSPENDING", "SUSPENDED")
_SECONDS_BETWEEN_LOOKS = 20.0
_GUARD = Path(__file__).parent / "guard.py"


class Fate(Enum):
    """What became of a slice. TAKEN: by the cloud; NONE: never made, or deleted by somebody or by its deadline."""

    READY = "ready"
    ON_ITS_WAY = "on its way"
    TAKEN = "taken away"
    NONE = "not there"


class Slice:
    """Of one name in one zone. Every operation may be repeated, and goes on where an earlier one stopped."""

    def __init__(self, gcloud: Gcloud):
        self._gcloud, self._settings = gcloud, gcloud.settings
        self._where = (self._settings.name, f"--zone={self._settings.zone}")

    def node(self) -> dict[str, Any] | None:
        """As `gcloud compute tpus tpu-vm describe` has it; None where there is none."""
        found = self._gcloud.look(*_NODE, "describe", *self._where)
        assert found is None or isinstance(found, dict)
        return found

    def fate(self) -> Fate:
        node = self.node()
        if node is not None and node["state"] in _GONE:
            return Fate.TAKEN
        if node is not None:
            return Fate.READY if node["state"] == "READY" else Fate.ON_ITS_WAY
        request = self._request() if self._settings.queued else None
        if request is None:
            return Fate.NONE
        return Fate.TAKEN if _state_of(request) in _OVER else Fate.ON_ITS_WAY

    def create(self, hours: float | None) -> bool:
        """Until the slice is ready; whether it was made now. One that was taken away is made anew.

        hours: that it may live, None for ever; of one that is there already, nothing changes. NoCapacityError where the
        cloud has none to give, CloudError where another kind of slice has the name.
        """
        node = self.node()
        if node is not None:
            self._check_type(node)
            if node["state"] in _GONE:
                print(f"{self._settings.name} is {node['state']}; it is made anew", flush=True)
                self.delete()
            elif node["state"] == "READY":
                return False
            else:
                self._wait_for_node()
                return False
        if self._settings.queued:
            self._wait_in_line(hours)
        else:
            self._gcloud.change(*_NODE, "create", *self._where, *self._of_node("--version", hours))
        return True

    def delete(self) -> bool:
        """Also of the place in line; whether there was anything. Nothing is an error that is gone already."""
        dry_run, found = self._gcloud.dry_run, False
        if dry_run or self._request() is not None:
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
            found = True
        if dry_run or self.node() is not None:
            self._gcloud.change(*_NODE, "delete", *self._where)
            found = True
        return found

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

    def _check_type(self, node: dict[str, Any]) -> None:
        found = str(node.get("acceleratorType", "")).rpartition("/")[2]
        if found != self._settings.type:
            raise CloudError(
                f"{self._settings.name} is there, but as {found}, and TYPE is {self._settings.type}; cloud/tpu delete "
                "it, or choose another NAME"
            )

    def _wait_for_node(self) -> None:
        while (node := self.node()) is None or node["state"] != "READY":
            if node is None:
                raise DeletedError(f"{self._settings.name} was deleted while it was waited for")
            state = node["state"]
            if state in _GONE:
                raise NoCapacityError(f"{self._settings.name} became {state} while it was waited for; try again")
            if state not in _ON_ITS_WAY:
                raise CloudError(
                    f"{self._settings.name} is {state}, and its disks are there; gcloud compute tpus tpu-vm start "
                    f"{self._settings.name} --zone={self._settings.zone}, or cloud/tpu delete"
                )
            print(f"{self._settings.name} is {state}", flush=True)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _request(self) -> dict[str, Any] | None:
        found = self._gcloud.look(*_REQUEST, "describe", *self._where)
        assert found is None or isinstance(found, dict)
        return found

    def _wait_in_line(self, hours: float | None) -> None:
        request = self._request()
        if request is not None and _state_of(request) in _OVER:
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
            request = None
        if request is None:
            node = f"--node-id={self._settings.name}"
            self._gcloud.change(*_REQUEST, "create", *self._where, node, *self._of_node("--runtime-version", hours))
        before = None
        while not self._gcloud.dry_run:
            request = self._request()
            if request is None:
                raise DeletedError(f"the place of {self._settings.name} in the queue was deleted meanwhile")
            state = _state_of(request)
            if state == "ACTIVE":
                return
            if state not in _WAITS:
                raise NoCapacityError(f"the request for {self._settings.name} became {state}; try again")
            if state != before:
                print(f"{self._settings.name} is {state}", flush=True)
                before = state
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _state_of(request: dict[str, Any]) -> str:
    return str(request["state"]["state"])
