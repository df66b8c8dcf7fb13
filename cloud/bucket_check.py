"""Whether the bucket is fit for a training: found out one by one, each with the way out."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cloud.buckets import Bucket, aborts
from cloud.errors import CloudError
from cloud.gcloud import Gcloud

_MAY_WRITE = {"roles/storage.admin", "roles/storage.objectAdmin", "roles/storage.objectUser"}
# What a bucket gives by default to whoever edits its project; the role of a new project's own service account.
_LEGACY = {"roles/storage.legacyBucketOwner", "roles/storage.legacyObjectOwner"}
_PROBE = "written by cloud/bucket check, and to be deleted"
# Conditions of a rule that only holds for what was overwritten or deleted already.
_OF_OLD_VERSIONS = {"numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore"}


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
        yield _life_cycle(bucket, described)
        yield _soft_delete(bucket, described)
        yield _access(bucket, described)
    yield _service_account(gcloud, bucket)
    yield _upload(gcloud)


def _region(bucket: Bucket, described: dict[str, Any]) -> Finding:
    near = bucket.nearness(described)
    if near == "same":
        return Finding("ok", "region", f"{described['location'].lower()}, where the zone is")
    way_out = "choose a ZONE there, or make another BUCKET: it can't move"
    return Finding("warn" if near == "around" else "fail", "region", f"{bucket.where(described)}; {way_out}")


def _rights(gcloud: Gcloud, bucket: Bucket) -> Finding:
    """Writes, reads and deletes an object."""
    url = f"{bucket.url}/.jaxgpt-probe-{os.getpid()}"
    troubles = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "probe"
            file.write_text(_PROBE, encoding="utf-8")
            gcloud.text("storage", "cp", str(file), url)
    except CloudError as error:
        return Finding("fail", "rights", f"you can't write: {error}")
    try:
        found = gcloud.text("storage", "cat", url)
        if found != _PROBE and not gcloud.dry_run:
            troubles.append(f"{url} was written as {_PROBE!r} and read as {found!r}; try again")
    except CloudError as error:
        troubles.append(f"you can't read: {error}")
    finally:
        try:
            gcloud.text("storage", "rm", url)
        except CloudError as error:
            troubles.append(f"you can't delete: {error}; {url} is left there")
    return Finding("fail" if troubles else "ok", "rights", "; ".join(troubles) or "you may write, read and delete")


def _life_cycle(bucket: Bucket, described: dict[str, Any]) -> Finding:
    rules = (described.get("lifecycle_config") or {}).get("rule", [])
    deleting = [rule["condition"] for rule in rules if rule["action"]["type"] == "Delete"]
    everywhere = [one for one in deleting if _deletes_everywhere(one)]
    if everywhere:
        return Finding(
            "warn",
            "life cycle",
            f"deletes pages and checkpoints, too, where {json.dumps(everywhere)}; if that is not meant, gcloud storage "
            f"buckets update {bucket.url} --clear-lifecycle, and cloud/bucket create",
        )
    told = "".join(f"; deletes {_what(one)}" for one in deleting)
    if not aborts(rules):
        return Finding("warn", "life cycle", f"keeps broken uploads, which cost; cloud/bucket create mends it{told}")
    return Finding("ok", "life cycle", f"broken uploads are removed{told}")


def _deletes_everywhere(condition: dict[str, Any]) -> bool:
    of_old_versions = condition.get("isLive") is False or _OF_OLD_VERSIONS & condition.keys()
    return not (of_old_versions or condition.get("matchesPrefix") or condition.get("matchesSuffix"))


def _what(condition: dict[str, Any]) -> str:
    if condition.keys() == {"age", "matchesPrefix"}:
        return f"{', '.join(condition['matchesPrefix'])} after {condition['age']} days"
    return f"where {json.dumps(condition)}"


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
        described = gcloud.look("projects", "describe", project)
        if described is None and not gcloud.dry_run:
            raise CloudError(f"there is no project {project}; put another PROJECT=… into cloud/settings.env")
        number = (described or {}).get("projectNumber")
        account = gcloud.settings.service_account or f"{number}-compute@developer.gserviceaccount.com"
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


def _upload(gcloud: Gcloud) -> Finding:
    """Whether there is the login of programs, which is another one than gcloud's own."""
    try:
        gcloud.text("auth", "application-default", "print-access-token")
    except CloudError:
        return Finding(
            "warn",
            "upload",
            "cloud/bucket upload has a login of its own, and there is none; gcloud auth application-default login",
        )
    return Finding("ok", "upload", "cloud/bucket upload has a login")


def _project(gcloud: Gcloud) -> str:
    found = gcloud.settings.project or gcloud.look("config", "get", "project") or ("PROJECT" if gcloud.dry_run else "")
    if not found:
        raise CloudError("no project is set; put PROJECT=… into cloud/settings.env")
    return str(found)


def _roles(policy: dict[str, Any] | None, member: str) -> set[str]:
    """Without those that hold under a condition."""
    bindings = (policy or {}).get("bindings", [])
    return {one["role"] for one in bindings if member in one["members"] and "condition" not in one}
