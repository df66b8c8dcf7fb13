"""Whether the bucket is fit for a training: found out one by one, each with the way out."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cloud.buckets import ABORT_RULE, Bucket
from cloud.errors import CloudError
from cloud.gcloud import Gcloud

_MAY_WRITE = {"roles/storage.admin", "roles/storage.objectAdmin", "roles/storage.objectUser"}
# What a bucket gives by default to whoever edits its project; the role of a new project's own service account.
_LEGACY = {"roles/storage.legacyBucketOwner", "roles/storage.legacyObjectOwner"}
_PROBE = {"jaxgpt": "probe"}


class Finding(NamedTuple):
    """what: a few words for the line's beginning; said: what is so, and the way out where it is not ok."""

    state: Literal["ok", "warn", "fail"]
    what: str
    said: str


def check(gcloud: Gcloud, bucket: Bucket) -> Iterator[Finding]:
    """In the order in which things can be wrong; nothing follows where there is no bucket."""
    described = bucket.describe()
    if described is None and not gcloud.dry_run:
        yield Finding("fail", "bucket", f"{bucket.url} does not exist; cloud/bucket create makes it")
        return
    if described is not None:
        yield Finding("ok", "bucket", f"{bucket.url}, {described.get('default_storage_class', 'STANDARD').lower()}")
        yield _region(bucket, described)
    yield _rights(gcloud, bucket)
    if described is not None:
        yield _life_cycle(described)
        yield _soft_delete(bucket, described)
        yield _access(bucket, described)
    yield _service_account(gcloud, bucket)


def _region(bucket: Bucket, described: dict[str, Any]) -> Finding:
    near = bucket.nearness(described)
    if near == "same":
        return Finding("ok", "region", f"{described['location'].lower()}, where the zone is")
    way_out = "choose a ZONE there, or make another BUCKET: it can't move"
    return Finding("warn" if near == "around" else "fail", "region", f"{bucket.where(described)}; {way_out}")


def _rights(gcloud: Gcloud, bucket: Bucket) -> Finding:
    """Writes, reads and deletes an object."""
    url = f"{bucket.url}/.jaxgpt-probe-{os.getpid()}"
    doing = "write"
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe.json"
            file.write_text(json.dumps(_PROBE), encoding="utf-8")
            gcloud.look("storage", "cp", str(file), url)
        doing = "read"
        found = gcloud.look("storage", "cat", url)
        if found != _PROBE and not gcloud.dry_run:
            return Finding("fail", "rights", f"{url} was written as {_PROBE} and read as {found}; try again")
        doing = "delete"
        gcloud.look("storage", "rm", url)
    except CloudError as error:
        left = "" if doing == "write" else f"; {url} is left there"
        return Finding("fail", "rights", f"you can't {doing}: {error}{left}")
    return Finding("ok", "rights", "you may write, read and delete")


def _life_cycle(described: dict[str, Any]) -> Finding:
    rules = (described.get("lifecycle_config") or {}).get("rule", [])
    deleting = [rule["condition"] for rule in rules if rule["action"]["type"] == "Delete"]
    everywhere = [one for one in deleting if not one.get("matchesPrefix") and not one.get("matchesSuffix")]
    if everywhere:
        return Finding("warn", "life cycle", f"deletes pages and checkpoints, too: {json.dumps(everywhere)}; see to it")
    told = "".join(f"; deletes {', '.join(one['matchesPrefix'])} after {one.get('age')} days" for one in deleting)
    if not any(rule["action"] == ABORT_RULE["action"] for rule in rules):
        return Finding("warn", "life cycle", f"keeps broken uploads, which cost; cloud/bucket create mends it{told}")
    return Finding("ok", "life cycle", f"broken uploads are removed{told}")


def _soft_delete(bucket: Bucket, described: dict[str, Any]) -> Finding:
    seconds = int((described.get("soft_delete_policy") or {}).get("retentionDurationSeconds", 0))
    if not seconds:
        return Finding("ok", "soft delete", "off")
    return Finding(
        "warn",
        "soft delete",
        f"what is deleted, as old checkpoints are, is paid for {seconds / 86400:g} more days; gcloud storage buckets "
        f"update {bucket.url} --clear-soft-delete",
    )


def _access(bucket: Bucket, described: dict[str, Any]) -> Finding:
    lacks = []
    if described.get("public_access_prevention") != "enforced":
        lacks.append("--public-access-prevention")
    if not described.get("uniform_bucket_level_access"):
        lacks.append("--uniform-bucket-level-access")
    if not lacks:
        return Finding("ok", "access", "not public, and the same for all objects")
    update = f"gcloud storage buckets update {bucket.url} {' '.join(lacks)}"
    return Finding("warn", "access", f"it or parts of it could be made public; {update}")


def _service_account(gcloud: Gcloud, bucket: Bucket) -> Finding:
    """Whether the account that the TPU's hosts act as may use it, by the rules of the bucket and of the project."""
    try:
        project = _project(gcloud)
        described = gcloud.look("projects", "describe", project) or {}
        account = gcloud.settings.service_account
        account = account or f"{described.get('projectNumber')}-compute@developer.gserviceaccount.com"
        member = f"serviceAccount:{account}"
        of_bucket = gcloud.look("storage", "buckets", "get-iam-policy", bucket.url)
        of_project = gcloud.look("projects", "get-iam-policy", project)
    except CloudError as error:
        return Finding("warn", "hosts", f"whether the TPU's hosts may use it can't be seen: {error}")
    here, there = _roles(of_bucket, member), _roles(of_project, member)
    # An editor of the project has what the bucket gives to the project's editors.
    if there & {"roles/editor", "roles/owner"}:
        for kind in ("Editor", "Owner"):
            here |= _roles(of_bucket, f"project{kind}:{project}") if f"roles/{kind.lower()}" in there else set()
    if here & _MAY_WRITE or there & _MAY_WRITE or here >= _LEGACY:
        return Finding("ok", "hosts", f"{account} may write")
    return Finding(
        "warn",
        "hosts",
        f"{account}, which the TPU's hosts act as, has no right to write that can be seen; gcloud storage buckets "
        f"add-iam-policy-binding {bucket.url} --member={member} --role=roles/storage.objectUser",
    )


def _project(gcloud: Gcloud) -> str:
    found = gcloud.settings.project or gcloud.look("config", "get", "project") or ("PROJECT" if gcloud.dry_run else "")
    if not found:
        raise CloudError("no project is set; put PROJECT=… into cloud/settings.env")
    return str(found)


def _roles(policy: dict[str, Any] | None, member: str) -> set[str]:
    """Without those that hold under a condition."""
    bindings = (policy or {}).get("bindings", [])
    return {one["role"] for one in bindings if member in one["members"] and "condition" not in one}
