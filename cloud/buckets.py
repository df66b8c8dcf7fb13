"""The bucket of the settings: what it is now, and how it is made."""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cloud.bucket_prices import ACROSS_REGIONS_USD
from cloud.errors import CloudError
from cloud.gcloud import Gcloud

Nearness = Literal["same", "around", "elsewhere"]
_BUCKETS = ("storage", "buckets")
_CONTINENTS = {"us": "us-", "eu": "europe-", "asia": "asia-"}  # multi-regions and how their regions begin
# Parts of uploads that were broken off are invisible, and paid for.
ABORT_RULE: dict[str, Any] = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}}


class Content(NamedTuple):
    """Of a top folder, or of the objects above all folders."""

    objects: int
    bytes: int


def expire_rule(prefix: str, days: int) -> dict[str, Any]:
    """Deletes what is below a prefix, so many days after it was written."""
    return {"action": {"type": "Delete"}, "condition": {"age": days, "matchesPrefix": [prefix]}}


class Bucket:
    """url: gs://NAME of the settings; CloudError where they have none."""

    def __init__(self, gcloud: Gcloud):
        self._gcloud, self._settings = gcloud, gcloud.settings
        self.url = gcloud.settings.bucket
        if not self.url:
            raise CloudError("BUCKET is empty; put BUCKET=gs://NAME into cloud/settings.env")

    def describe(self) -> dict[str, Any] | None:
        """As gcloud has it; None where there is none, and in a dry run."""
        found = self._gcloud.look(*_BUCKETS, "describe", self.url)
        assert found is None or isinstance(found, dict)
        return found

    def nearness(self, described: dict[str, Any]) -> Nearness:
        """same: it has the zone's region; around: it is a multi-region there, from which reading costs, too."""
        region, location = self._settings.region, described["location"].lower()
        if region in (location, *(name.lower() for name in described.get("data_locations", []))):
            return "same"
        return "around" if location in _CONTINENTS and region.startswith(_CONTINENTS[location]) else "elsewhere"

    def where(self, described: dict[str, Any]) -> str:
        """The two places in a clause, with what reading from the one in the other costs."""
        return (
            f"{self.url} is in {described['location'].lower()} and the zone {self._settings.zone} in "
            f"{self._settings.region}: each reading of its data costs ${ACROSS_REGIONS_USD:.2f} per GiB or more"
        )

    def require_near(self, described: dict[str, Any], force: bool) -> None:
        """CloudError where the zone's region is elsewhere; `force` makes a warning of it."""
        if self.nearness(described) == "same":
            return
        if not force and self.nearness(described) == "elsewhere":
            raise CloudError(
                f"{self.where(described)}; choose a ZONE there, a BUCKET in {self._settings.region}, or give --force"
            )
        print(f"warning: {self.where(described)}", flush=True)

    def create(self, region: str, rules: list[dict[str, Any]]) -> None:
        """Private, with one kind of rights for all of it, and without a copy of what is deleted."""
        with tempfile.TemporaryDirectory() as folder:
            self._gcloud.change(
                *(*_BUCKETS, "create", self.url, f"--location={region}", "--default-storage-class=STANDARD"),
                *("--uniform-bucket-level-access", "--public-access-prevention"),
                "--soft-delete-duration=0",  # what retention removes would be paid for seven days more
                f"--lifecycle-file={_write_rules(folder, rules)}",
            )

    def add_rules(self, described: dict[str, Any], rules: list[dict[str, Any]]) -> bool:
        """Adds to its life cycle what it lacks of these; others stay, but one of the same prefix is replaced.

        False where it lacks none.
        """
        there = (described.get("lifecycle_config") or {}).get("rule", [])
        if all(rule in there for rule in rules):
            return False
        kept = [rule for rule in there if not any(_same_target(rule, new) for new in rules)]
        with tempfile.TemporaryDirectory() as folder:
            file = _write_rules(folder, kept + rules)
            self._gcloud.change(*_BUCKETS, "update", self.url, f"--lifecycle-file={file}")
        return True

    def contents(self) -> dict[str, Content] | None:
        """By top folder, in order; "" is what lies above all of them. None where there is no bucket."""
        found = self._gcloud.look("storage", "objects", "list", f"{self.url}/**")
        if found is None:
            return None
        folders: dict[str, Content] = {}
        for entry in found:
            folder, slash, _ = entry["name"].partition("/")
            before = folders.get(folder + slash if slash else "", Content(0, 0))
            folders[folder + slash if slash else ""] = Content(before.objects + 1, before.bytes + int(entry["size"]))
        return dict(sorted(folders.items()))


def _same_target(rule: dict[str, Any], other: dict[str, Any]) -> bool:
    prefix, other_prefix = (one["condition"].get("matchesPrefix") for one in (rule, other))
    return bool(rule["action"] == other["action"] and prefix == other_prefix)


def _write_rules(folder: str, rules: list[dict[str, Any]]) -> Path:
    content = json.dumps({"rule": rules})
    print(f"life cycle: {content}", flush=True)
    file = Path(folder) / "lifecycle.json"
    file.write_text(content, encoding="utf-8")
    return file
