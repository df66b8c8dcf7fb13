#!/usr/bin/env python3
"""Deletes the slice that this host is of: some hours after its first start, or at once, called with `now`.

The slice's metadata has its name (jaxgpt-name) and, where it has an end, its hours (jaxgpt-hours). The machines ask for
their own end, so that it comes while the laptop that made them sleeps. This file stands alone: it is sent as a startup
script, for whatever Python the machine has.
"""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Of a machine in Google's cloud; the variable is that of Google's own libraries.
_METADATA = "http://" + os.environ.get("GCE_METADATA_HOST", "metadata.google.internal") + "/computeMetadata/v1/"
_API = os.environ.get("JAXGPT_TPU_API", "https://tpu.googleapis.com") + "/v2/"
_KEPT = os.environ.get(
    "JAXGPT_GUARD", "/var/lib/jaxgpt-guard"
)  # .deadline outlives a restart of the machine, .log tells
_PAUSE, _LONGEST_PAUSE = 60.0, 600.0  # seconds until what failed is asked for again
_SAVE = 300.0  # seconds that a training has for its last checkpoint
_BROKEN = (OSError, http.client.HTTPException)  # what a connection may end with


def main() -> None:
    worker = int(_attribute("agent-worker-number") or 0)
    if "now" in sys.argv[1:]:
        if worker == 0:
            delete()
        return
    hours = _attribute("jaxgpt-hours")
    if not hours:
        return
    # The first host asks first. The others are there for where it is dead.
    end = _deadline(float(hours))
    deadline = end + 2 * _PAUSE * worker
    if os.fork():  # a startup script that does not end keeps the machine from having started
        return
    os.setsid()
    log = os.open(_KEPT + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _sleep_until(end - _SAVE)
    _save()
    _sleep_until(deadline)
    delete()


def _sleep_until(moment: float) -> None:
    while time.time() < moment:  # sleep may end early, where a machine is moved
        time.sleep(min(_PAUSE, max(0.0, moment - time.time())))


def _save() -> None:
    """Asks the training to end: what it has learned since its last checkpoint is paid for."""
    try:
        subprocess.run(["pkill", "-TERM", "-f", "jaxgpt/venv/bin/jaxgpt train"], check=False)
    except OSError as error:
        print("the training could not be asked to save: " + str(error), flush=True)


def delete() -> None:
    """Asks until nothing is left to delete, or this machine is gone."""
    zone = _get("instance/zone").rpartition("/")[2]
    where = "projects/" + _get("project/project-id") + "/locations/" + zone
    name = _attribute("jaxgpt-name")
    pause = _PAUSE
    while True:
        # A slice that waited in line is deleted with its place there; any other is not known by that address.
        said = [_delete(where + "/queuedResources/" + name + "?force=true"), _delete(where + "/nodes/" + name)]
        print(time.strftime("%Y-%m-%d %H:%M:%S"), "deletion of " + name + ": " + "; ".join(said), flush=True)
        if said == ["404", "404"]:
            return
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _delete(resource: str) -> str:
    """The API's answer, as its code, or why there is none."""
    try:
        token = json.loads(_get("instance/service-accounts/default/token"))["access_token"]
    except (*_BROKEN, ValueError, KeyError) as error:
        return "no token: " + str(error)
    try:
        request = urllib.request.Request(_API + resource, method="DELETE", headers={"Authorization": "Bearer " + token})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except _BROKEN as error:
        return str(error) or type(error).__name__


def _deadline(hours: float) -> float:
    """Seconds since 1970; those of the first start."""
    file = _KEPT + ".deadline"
    if os.path.exists(file):
        with open(file) as kept:
            return float(kept.read())
    found = time.time() + hours * 3600
    with open(file + ".new", "w") as kept:
        kept.write(str(found))
    os.rename(file + ".new", file)
    return found


def _attribute(name: str) -> str:
    """Of the slice's metadata; empty where there is none of the name."""
    try:
        return _get("instance/attributes/" + name).strip()
    except urllib.error.HTTPError:
        return ""


def _get(path: str) -> str:
    """From the metadata server, which may not be there yet; HTTPError where it has nothing there."""
    request = urllib.request.Request(_METADATA + path, headers={"Metadata-Flavor": "Google"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text: str = answer.read().decode()
            return text
        except _BROKEN as error:  # also where the network is not there yet
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                raise
            time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
