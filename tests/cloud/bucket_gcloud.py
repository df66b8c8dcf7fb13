"""A `gcloud` for tests that knows buckets, logging sinks and rights: what SDK 528 answers, and how it fails.

Its world is a JSON file. `answer` is what it does, for stand-ins that know more; run as a program, it is `gcloud` with
the file of BUCKET_GCLOUD.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ACCOUNT = "alice@example.com"
LOGGED_OUT = """You do not currently have an active account selected.
Please run:

  $ gcloud auth login

to obtain new credentials.

If you have already logged in with a different account, run:

  $ gcloud config set account ACCOUNT

to select an already authenticated account to use."""
NO_PROJECT = """The required property [project] is not currently set.
It can be set on a per-command basis by re-running your command with the [--project] flag.

You may set it for your current workspace by running:

  $ gcloud config set project VALUE

or it can be set temporarily by the environment variable [CLOUDSDK_CORE_PROJECT]"""
TAKEN = (
    "HTTPError 409: The requested bucket name is not available. The bucket namespace is shared by all users of the "
    "system. Please select a different name and try again."
)
QUOTA = "HTTPError 429: Quota exceeded for quota metric 'Bucket creation requests' of service 'storage.googleapis.com'."
NO_LOGIN_OF_PROGRAMS = (
    "Your default credentials were not found. To set up Application Default Credentials, see "
    "https://cloud.google.com/docs/authentication/external/set-up-adc for more information."
)
NO_BILLING = "HTTPError 403: The billing account for the owning project is disabled in state absent"
EMPTY: dict[str, Any] = {
    "calls": [],  # command lines
    "faults": {},  # the beginning of a command line -> what it fails with
    "buckets": {},  # name -> what `describe` says, and its `policy`
    "others": [],  # names of somebody else's
    "objects": {},  # gs://… -> text
    "exclusions": [],  # of the sink _Default
    "project": {"projectId": "my-project", "projectNumber": "123456"},
    "project_policy": {"bindings": []},
    "token": "ya29.hush",  # of the application-default login
}


def load(state: Path) -> dict[str, Any]:
    return {**EMPTY, **(json.loads(state.read_text()) if state.is_file() else {})}


def save(state: Path, world: dict[str, Any]) -> None:
    state.write_text(json.dumps(world, indent=1))


class _FailError(Exception):
    """What gcloud says after `ERROR: (gcloud.…) `."""


def answer(arguments: list[str], state: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; the world in the file `state` changes by it."""
    world = load(state)
    words = [argument for argument in arguments if not argument.startswith("--")]
    options = dict(argument[2:].partition("=")[::2] for argument in arguments if argument.startswith("--"))
    line = " ".join(words)
    world["calls"] = [*world["calls"], " ".join(arguments)]
    command, said = "", ""
    try:
        for beginning, fault in world["faults"].items():
            if line.startswith(beginning):
                command = beginning
                raise _FailError(fault)
        for known, function in COMMANDS.items():
            if line.startswith(known):
                command = known
                found, said = function(world, words[len(known.split()) :], options)
                break
        else:
            raise AssertionError(f"the stand-in does not know {line}")
    except _FailError as error:
        return 1, "", f"{said}ERROR: (gcloud.{command.replace(' ', '.')}) {error}\n"
    finally:
        save(state, world)
    text = found if isinstance(found, str) else "" if found is None else json.dumps(found, indent=2) + "\n"
    return 0, text, said


Options = dict[str, str]
Said = tuple[Any, str]  # stdout, as JSON where it is no text; stderr


def _bucket(world: dict[str, Any], url: str) -> dict[str, Any]:
    name = url.removeprefix("gs://").partition("/")[0]
    if name in world["others"]:
        raise _FailError(
            f"[{ACCOUNT}] does not have permission to access b instance [{name}] (or it may not exist): {ACCOUNT} does "
            "not have storage.buckets.get access to the Google Cloud Storage bucket. Permission 'storage.buckets.get' "
            f"denied on resource (or it may not exist). This command is authenticated as {ACCOUNT} which is the active "
            "account specified by the [core/account] property."
        )
    if name not in world["buckets"]:
        raise _FailError(f"gs://{name} not found: 404.")
    return world["buckets"][name]


def _describe(world: dict[str, Any], words: list[str], options: Options) -> Said:
    return {name: value for name, value in _bucket(world, words[0]).items() if name != "policy"}, ""


def _create(world: dict[str, Any], words: list[str], options: Options) -> Said:
    name = words[0].removeprefix("gs://")
    if name in world["others"]:
        raise _FailError(TAKEN)
    if name in world["buckets"]:
        raise _FailError("HTTPError 409: You already own this bucket. Please select another name.")
    project = options.get("project") or world["project"]["projectId"]
    legacy = [
        {"members": [f"projectEditor:{project}", f"projectOwner:{project}"], "role": f"roles/storage.legacy{kind}Owner"}
        for kind in ("Bucket", "Object")
    ]
    soft = options.get("soft-delete-duration", "7d").removesuffix("d")
    world["buckets"][name] = {
        "creation_time": "2026-11-23T17:44:42+0000",
        "default_storage_class": options.get("default-storage-class", "STANDARD"),
        "location": options.get("location", "us").upper(),
        "location_type": "region",
        "metageneration": 1,
        "name": name,
        "public_access_prevention": "enforced" if "public-access-prevention" in options else "inherited",
        "soft_delete_policy": {"retentionDurationSeconds": str(int(soft) * 86400)},
        "storage_url": f"gs://{name}/",
        "uniform_bucket_level_access": "uniform-bucket-level-access" in options,
        "policy": {"bindings": legacy},
    }
    _set_life_cycle(world["buckets"][name], options)
    return None, f"Creating gs://{name}/...\n"


def _set_life_cycle(bucket: dict[str, Any], options: Options) -> None:
    if "lifecycle-file" in options:
        bucket["lifecycle_config"] = json.loads(Path(options["lifecycle-file"]).read_text())


def _update(world: dict[str, Any], words: list[str], options: Options) -> Said:
    _set_life_cycle(_bucket(world, words[0]), options)
    return None, f"Updating {words[0]}/...\n  Completed 1\n"


def _bucket_policy(world: dict[str, Any], words: list[str], options: Options) -> Said:
    return _bucket(world, words[0])["policy"], ""


def _list(world: dict[str, Any], words: list[str], options: Options) -> Said:
    _bucket(world, words[0])
    begin = words[0].removesuffix("**")
    assert options["format"] == "json(name,size)", "all that is known of each object is much"
    entries = [
        {"name": url.removeprefix(begin), "size": len(text)}
        for url, text in sorted(world["objects"].items())
        if url.startswith(begin)
    ]
    return entries, ""


def _cp(world: dict[str, Any], words: list[str], options: Options) -> Said:
    _bucket(world, words[1])
    world["objects"][words[1]] = Path(words[0]).read_text()
    return None, f"Copying file://{words[0]} to {words[1]}\n  \n."


def _of_object(world: dict[str, Any], url: str) -> None:
    _bucket(world, url)
    if url not in world["objects"]:
        raise _FailError(f"The following URLs matched no objects or files:\n{url}")


def _cat(world: dict[str, Any], words: list[str], options: Options) -> Said:
    _of_object(world, words[0])
    # What gcloud has no resources to show of is an empty list, and that follows the object's own bytes.
    return world["objects"][words[0]] + ("[]\n" if options.get("format") == "json" else ""), ""


def _rm(world: dict[str, Any], words: list[str], options: Options) -> Said:
    _of_object(world, words[0])
    del world["objects"][words[0]]
    return None, f"Removing objects:\nRemoving {words[0]}...\n  Completed 1/1\n"


def _describe_sink(world: dict[str, Any], words: list[str], options: Options) -> Said:
    assert words == ["_Default"]
    return {"name": "_Default", "filter": "NOT LOG_ID(…)", "exclusions": world["exclusions"]}, ""


def _update_sink(world: dict[str, Any], words: list[str], options: Options) -> Said:
    assert words == ["_Default"]
    if added := options.get("add-exclusion"):
        values = _exclusion(added)
        if any(one["name"] == values["name"] for one in world["exclusions"]):
            raise _FailError(f"ALREADY_EXISTS: Exclusion {values['name']} already exists")
        world["exclusions"] = [*world["exclusions"], values]
    if updated := options.get("update-exclusion"):
        values = _exclusion(updated)
        (found,) = (one for one in world["exclusions"] if one["name"] == values["name"])
        found.update(values)
    if removed := options.get("remove-exclusions"):
        world["exclusions"] = [one for one in world["exclusions"] if one["name"] not in removed.split(",")]
    return None, "Updated [https://logging.googleapis.com/v2/projects/my-project/sinks/_Default].\n"


def _exclusion(text: str) -> dict[str, Any]:
    values: dict[str, Any] = dict(part.partition("=")[::2] for part in re.split(r",(?=\w+=)", text))
    if "disabled" in values:
        values["disabled"] = bool(values["disabled"])  # so `disabled=false` disables it
    return values


def _project(world: dict[str, Any], words: list[str], options: Options) -> Said:
    if words[0] != world["project"]["projectId"]:
        raise _FailError(f"NOT_FOUND: Project '{words[0]}' was not found or deleted.")
    return world["project"], ""


def _project_policy(world: dict[str, Any], words: list[str], options: Options) -> Said:
    return world["project_policy"], ""


def _configured(world: dict[str, Any], words: list[str], options: Options) -> Said:
    return (world["project"]["projectId"], "") if world["project"] else ([], "(unset)\n")


def _login_of_programs(world: dict[str, Any], words: list[str], options: Options) -> Said:
    if not world["token"]:
        raise _FailError(NO_LOGIN_OF_PROGRAMS)
    return f"{world['token']}\n", ""


COMMANDS = {
    "auth application-default print-access-token": _login_of_programs,
    "storage buckets describe": _describe,
    "storage buckets create": _create,
    "storage buckets update": _update,
    "storage buckets get-iam-policy": _bucket_policy,
    "storage objects list": _list,
    "storage cp": _cp,
    "storage cat": _cat,
    "storage rm": _rm,
    "logging sinks describe": _describe_sink,
    "logging sinks update": _update_sink,
    "projects describe": _project,
    "projects get-iam-policy": _project_policy,
    "config get project": _configured,
}

if __name__ == "__main__":
    code, out, error = answer(sys.argv[1:], Path(os.environ["BUCKET_GCLOUD"]))
    print(out, end="")
    print(error, end="", file=sys.stderr)
    sys.exit(code)
