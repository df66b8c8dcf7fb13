"""What TPU workers send to Cloud Logging ("Stackdriver"), which is paid for where it is much."""

from typing import Any

from cloud.errors import CloudError
from cloud.gcloud import Gcloud

_SINKS, _SINK = ("logging", "sinks"), "_Default"  # which stores, and bills, what nothing else wants
_NAME = "jaxgpt-tpu-workers"
_FILTER = 'resource.type="tpu_worker"'
_PRICE = "$0.50 per GiB above 50 GiB a month and project (list price of 2025-06)"


def turn_off(gcloud: Gcloud) -> None:
    """Keeps TPU workers' logs from being stored; other logs, and jaxgpt's own on the hosts, stay."""
    found = _exclusion(gcloud)
    if found is not None:
        print("the logs of TPU workers are off already")
        return
    what = f"name={_NAME},description=costs more than it tells,filter={_FILTER}"
    gcloud.change(*_SINKS, "update", _SINK, f"--add-exclusion={what}")
    _say(gcloud, f"from now on the logs of TPU workers in this project are not stored, which would cost {_PRICE}")


def turn_on(gcloud: Gcloud) -> None:
    """Undoes `turn_off`."""
    if _exclusion(gcloud) is None and not gcloud.dry_run:
        print("the logs of TPU workers are on already")
        return
    gcloud.change(*_SINKS, "update", _SINK, f"--remove-exclusions={_NAME}")
    _say(gcloud, f"from now on the logs of TPU workers in this project are stored and cost {_PRICE}")


def show(gcloud: Gcloud) -> None:
    """Says whether they are on."""
    off = _exclusion(gcloud)
    _say(gcloud, f"the logs of TPU workers are {'on, and cost ' + _PRICE if off is None else 'off'}")


def _say(gcloud: Gcloud, what: str) -> None:
    if not gcloud.dry_run:
        print(what)


def _exclusion(gcloud: Gcloud) -> dict[str, Any] | None:
    sink = gcloud.look(*_SINKS, "describe", _SINK)
    if sink is None:
        if gcloud.dry_run:
            return None
        raise CloudError(f"the project has no logging sink {_SINK}, so nothing is stored by it; there is nothing to do")
    return next((one for one in sink.get("exclusions", []) if one["name"] == _NAME and not one.get("disabled")), None)
