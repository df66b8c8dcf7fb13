"""The slice of the settings: what it is now, and how it comes and goes."""

import time
from typing import Any

from cloud.errors import CloudError
from cloud.gcloud import Gcloud

_NODE = ("compute", "tpus", "tpu-vm")
_REQUEST = ("compute", "tpus", "queued-resources")
_ON_ITS_WAY = ("CREATING", "STARTING", "RESTARTING", "REPAIRING")
_GONE = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "HIDING", "HIDDEN")
_WAITS = ("CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES")
_OVER = ("FAILED", "SUSPENDING", "SUSPENDED")
_SECONDS_BETWEEN_LOOKS = 20.0


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

    def state(self) -> str | None:
        """READY, PREEMPTED, …; None where there is no slice."""
        node = self.node()
        return None if node is None else str(node.get("state", "UNKNOWN"))

    def create(self) -> None:
        """Until the slice is ready. One that was taken away is made anew.

        CloudError where another kind of slice has the name, or the cloud has none to give.
        """
        node = self.node()
        if node is not None:
            self._check_type(node)
            if node["state"] in _GONE:
                print(f"{self._settings.name} is {node['state']}; it is made anew", flush=True)
                self.delete()
            elif node["state"] == "READY":
                print(f"{self._settings.name} is there already", flush=True)
                return
            else:
                self._wait_for_node()
                return
        if self._settings.queued:
            self._wait_in_line()
        else:
            self._gcloud.change(*_NODE, "create", *self._where, *self._of_node("--version"))

    def delete(self) -> None:
        """Also of the place in line; nothing is an error that is gone already."""
        if self._gcloud.dry_run or self._request() is not None:
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
        if self._gcloud.dry_run or self.node() is not None:
            self._gcloud.change(*_NODE, "delete", *self._where)

    def _of_node(self, runtime_option: str) -> list[str]:
        own = self._settings
        given = {
            "--accelerator-type": own.type,
            runtime_option: own.runtime or own.slice.runtime,
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
        while (state := self.state()) != "READY":
            if state not in _ON_ITS_WAY:
                raise CloudError(f"{self._settings.name} became {state or 'nothing'} while it was waited for; try again")
            print(f"{self._settings.name} is {state}", flush=True)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _request(self) -> dict[str, Any] | None:
        found = self._gcloud.look(*_REQUEST, "describe", *self._where)
        assert found is None or isinstance(found, dict)
        return found

    def _wait_in_line(self) -> None:
        request = self._request()
        if request is not None and request["state"]["state"] in _OVER:
            self._gcloud.change(*_REQUEST, "delete", *self._where, "--force")
            request = None
        if request is None:
            node = f"--node-id={self._settings.name}"
            self._gcloud.change(*_REQUEST, "create", *self._where, node, *self._of_node("--runtime-version"))
        before = None
        while not self._gcloud.dry_run:
            request = self._request()
            state = request["state"]["state"] if request else None
            if state == "ACTIVE":
                return
            if state not in _WAITS:
                raise CloudError(f"the request for {self._settings.name} became {state or 'nothing'}; try again")
            if state != before:
                print(f"{self._settings.name} is {state}", flush=True)
                before = state
            time.sleep(_SECONDS_BETWEEN_LOOKS)
