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
    if _excludes(found):
        print("the logs of TPU workers are off already")
        return
    what = f"name={_NAME},description=costs more than it tells,filter={_FILTER}"
    # An empty value of `disabled` is how gcloud is told that it is not.
    how = f"--add-exclusion={what}" if found is None else f"--update-exclusion={what},disabled="
    gcloud.change(*_SINKS, "update", _SINK, how)
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
    off = _excludes(_exclusion(gcloud))
    _say(gcloud, f"the logs of TPU workers are {'off' if off else f'on, and cost {_PRICE}'}")


def _say(gcloud: Gcloud, what: str) -> None:
    if not gcloud.dry_run:
        print(what)


def _excludes(exclusion: dict[str, Any] | None) -> bool:
    """Somebody may have disabled it, or changed its filter."""
    return exclusion is not None and exclusion.get("filter") == _FILTER and not exclusion.get("disabled")


def _exclusion(gcloud: Gcloud) -> dict[str, Any] | None:
    """The one of our name, whatever became of it."""
    sink = gcloud.look(*_SINKS, "describe", _SINK)
    if sink is None:
        if gcloud.dry_run:
            return None
        raise CloudError(f"the project has no logging sink {_SINK}, so nothing is stored by it; there is nothing to do")
    return next((one for one in sink.get("exclusions", []) if one["name"] == _NAME), None)
