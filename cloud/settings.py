"""What to work on: cloud/settings.env, and the environment over it."""

import difflib
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from cloud.errors import CloudError
from cloud.slice_types import SliceType, slice_type

FILE = Path(__file__).parent / "settings.env"
_EXAMPLE = "cloud/settings.env.example"
_PREFIX = "JAXGPT_"
PURCHASES = ("on-demand", "spot", "queued", "queued-spot")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
_SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET")


@dataclass(frozen=True)
class Settings:
    """As settings.env.example explains them; "" where a value is left open. CloudError where one can't be."""

    zone: str
    project: str = ""
    name: str = "jaxgpt"
    type: str = "v3-8"
    purchase: str = "on-demand"
    max_hours: str = ""
    bucket: str = ""
    runtime: str = ""
    network: str = ""
    subnetwork: str = ""
    service_account: str = ""
    internal_ips: str = "no"

    def __post_init__(self) -> None:
        _require(_ZONE.fullmatch(self.zone), "ZONE", self.zone, "a zone as us-central1-a")
        _require(_NAME.fullmatch(self.name), "NAME", self.name, "small letters, digits and dashes, 63 at most")
        _require(self.purchase in PURCHASES, "PURCHASE", self.purchase, f"one of {', '.join(PURCHASES)}")
        _require(self.internal_ips in ("yes", "no"), "INTERNAL_IPS", self.internal_ips, "yes or no")
        hours = self.max_hours
        well = not hours or (_is_number(hours) and 0 < float(hours) < math.inf)
        _require(well, "MAX_HOURS", hours, "hours above 0, or empty")
        bucket = self.bucket
        _require(not bucket or re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]{1,220}", bucket), "BUCKET", bucket, "gs://NAME")
        slice_type(self.type)

    @property
    def slice(self) -> SliceType:
        return slice_type(self.type)

    @property
    def region(self) -> str:
        """Of the zone: us-central1 for us-central1-a."""
        return self.zone.rpartition("-")[0]

    @property
    def spot(self) -> bool:
        return self.purchase.endswith("spot")

    @property
    def queued(self) -> bool:
        return self.purchase.startswith("queued")


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Of the file that JAXGPT_SETTINGS names, else cloud/settings.env; the environment has JAXGPT_ZONE over its ZONE.

    CloudError names the file and line of what is wrong.
    """
    named = environment.get(f"{_PREFIX}SETTINGS")
    file = Path(named or FILE)
    if named and not file.is_file():
        raise CloudError(f"JAXGPT_SETTINGS is {named}, and there is no such file; cp {_EXAMPLE} {named}")
    known = [field.name.upper() for field in fields(Settings)]
    values = _read(file, known) if file.is_file() else {}
    values |= {name: environment[_PREFIX + name] for name in known if _PREFIX + name in environment}
    if "ZONE" not in values:
        what = f"{file} has no ZONE" if file.is_file() else f"{file} is missing"
        raise CloudError(f"{what}; cp {_EXAMPLE} cloud/settings.env and put your zone and bucket into it")
    return Settings(**{name.lower(): value for name, value in values.items()})


def _read(file: Path, known: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    try:
        lines = file.read_bytes().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise CloudError(
            f"{file}:{number}: {error.object[error.start]:#x} is not UTF-8; save the file as that"
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().partition("=")
        if not equals:
            raise CloudError(f"{file}:{number}: {line.strip()!r} is no NAME=VALUE")
        if name not in known:
            raise CloudError(f"{file}:{number}: {_unknown(name, known)}")
        if name in values:
            raise CloudError(f"{file}:{number}: {name} stands there twice; keep one of {values[name]!r} and {value!r}")
        try:
            words = shlex.split(value, comments=True)
        except ValueError as error:
            raise CloudError(f"{file}:{number}: {value!r} is no value ({error})") from None
        if len(words) > 1:
            raise CloudError(f"{file}:{number}: {name} has {len(words)} words, {value!r}; quote it or give one")
        values[name] = words[0] if words else ""
    return values


def _unknown(name: str, known: list[str]) -> str:
    if _SECRET.search(name):
        return f"{name} looks like a secret, which does not belong into settings; docs/cloud.md says where it goes"
    near = difflib.get_close_matches(name, known, 1)
    return f"{name} is no setting; " + (f"is {near[0]} meant?" if near else f"there are {', '.join(known)}")


def _require(holds: object, name: str, value: str, what: str) -> None:
    if not holds:
        raise CloudError(f"{name} is {value!r}; give {what}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
