"""The bucket of the settings: what it is now, and how it is made."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cloud.bucket_prices import ACROSS_REGIONS_USD
from cloud.errors import CloudError
from cloud.gcloud import Gcloud
from jaxgpt.data.regions import is_around, is_in

Nearness = Literal["same", "around", "elsewhere"]
_BUCKETS = ("storage", "buckets")
_LIST_SECONDS = 1800.0  # of some million objects
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
        where = (self._settings.region, described["location"], described.get("data_locations", []))
        return "same" if is_in(*where) else "around" if is_around(*where) else "elsewhere"

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
        """Adds to its life cycle what it lacks of these; False where it lacks none.

        Other rules stay: of those that end broken uploads the first, and only an `expire_rule` gives way to another one
        of its prefix.
        """
        there = (described.get("lifecycle_config") or {}).get("rule", [])
        new = [rule for rule in rules if rule not in there and not (rule == ABORT_RULE and aborts(there))]
        if not new:
            return False
        replaced = [rule for rule in there if any(_replaces(one, rule) for one in new)]
        for rule in replaced:
            print(f"replaced in the life cycle: {json.dumps(rule)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = _write_rules(folder, [rule for rule in there if rule not in replaced] + new)
            self._gcloud.change(*_BUCKETS, "update", self.url, f"--lifecycle-file={file}")
        return True

    def contents(self) -> dict[str, Content] | None:
        """By top folder, in order; "" is what lies above all of them. None where there is no bucket."""
        command = ("storage", "objects", "list", f"{self.url}/**")
        found = self._gcloud.look(*command, fields="name,size", seconds=_LIST_SECONDS)
        if found is None:
            return None
        folders: dict[str, Content] = {}
        for entry in found:
            folder, slash, _ = entry["name"].partition("/")
            before = folders.get(folder + slash if slash else "", Content(0, 0))
            folders[folder + slash if slash else ""] = Content(before.objects + 1, before.bytes + int(entry["size"]))
        return dict(sorted(folders.items()))


def aborts(rules: Iterable[dict[str, Any]]) -> bool:
    """Whether one of them ends broken uploads, after however long."""
    return any(rule["action"] == ABORT_RULE["action"] for rule in rules)


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether they differ in the age alone; a rule with other conditions is another one, and somebody else's."""
    same_kind = old["action"] == new["action"] and old["condition"].keys() == new["condition"].keys()
    return bool(same_kind and old["condition"].get("matchesPrefix") == new["condition"].get("matchesPrefix"))


def _write_rules(folder: str, rules: list[dict[str, Any]]) -> Path:
    content = json.dumps({"rule": rules})
    file = Path(folder) / "lifecycle.json"
    file.write_text(content, encoding="utf-8")
    print(f"{file}: {content}", flush=True)
    return file
