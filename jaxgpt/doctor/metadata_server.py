"""What Google Cloud tells its own machines about themselves; elsewhere it is not asked.

Source: cloud.google.com/compute/docs/metadata; GCE_METADATA_HOST names another server, as for Google's libraries.
"""

import http.client
import os
import urllib.request
from pathlib import Path

_SECONDS = 2.0
_PRODUCT = Path("/sys/class/dmi/id/product_name")


def zone() -> str | None:
    """Of this machine, as us-central1-a; None where it is not known to be in Google Cloud."""
    found = _ask("instance/zone")  # projects/NUMBER/zones/ZONE
    return found.rpartition("/")[2] if found else None


def region() -> str | None:
    """Of this machine, as us-central1; None as `zone`."""
    found = zone()
    return found.rpartition("-")[0] if found else None


def tpu_type() -> str | None:
    """Of the slice that this machine is a host of, as v3-128; None where it is no TPU VM."""
    return _ask("instance/attributes/accelerator-type")


def _ask(name: str) -> str | None:
    """None as well where what answers is no metadata server, or GCE_METADATA_HOST is no host."""
    host = os.environ.get("GCE_METADATA_HOST")
    try:
        if not host:
            # Elsewhere looking up the name could take a resolver's whole patience.
            if not (_PRODUCT.is_file() and _PRODUCT.read_text().startswith("Google")):
                return None
            host = "metadata.google.internal"
        url = f"http://{host}/computeMetadata/v1/{name}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_SECONDS) as answer:
            text: str = answer.read().decode().strip()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return text or None
