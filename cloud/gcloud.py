"""Google's command line tool: every command is printed, and its errors are explained."""

import json
import re
import shlex
import subprocess
import sys
from typing import Any

from cloud.errors import CloudError, NoCapacityError
from cloud.settings import Settings

_INSTALLATION = "https://cloud.google.com/sdk/docs/install says how"
_LOOK_SECONDS = 120.0
_QUIET = ("--quiet",)  # no questions: nobody may be there
_NO_CAPACITY = r"no more capacity|not enough .*capacity|[Ii]nsufficient .*capacity|STOCKOUT|RESOURCE_POOL_EXHAUSTED"
# What gcloud says -> what that means. {zone}, {type}, {name}, {bucket}: of the settings.
_Explanations = tuple[tuple[str, str], ...]
_OF_ACCOUNTS: _Explanations = (
    (
        r"do not currently have an active account|gcloud auth login|Reauthentication",
        "nobody is logged in; gcloud auth login",
    ),
    (
        r"required property \[project\]|The \[project\] resource is not properly specified|underspecified resource",
        "no project is set; put PROJECT=… into cloud/settings.env, or gcloud config set project …",
    ),
    (r"HTTPError 401", "your login is not valid any more; gcloud auth login"),
    (
        r"[Bb]illing account .*(disabled|absent)|[Bb]illing .*(not enabled|disabled)",
        "the project has no billing account that pays; console.cloud.google.com/billing links one",
    ),
)
# By the first word of the command.
_OF_GROUPS: dict[str, _Explanations] = {
    "compute": (
        (
            _NO_CAPACITY,
            "{zone} has no {type} left just now; try another ZONE, PURCHASE=queued, which waits in line, or later",
        ),
        (
            r"[Qq]uota",
            "your project has no quota for {type} in {zone}; ask for it at console.cloud.google.com/iam-admin/quotas, "
            "or choose a TYPE, ZONE or PURCHASE that it has",
        ),
        (r"ALREADY_EXISTS|already exists", "something in {zone} has the name {name} already; choose another NAME"),
        (
            r"Permission denied on 'locations/|[Ll]ocation .* (is not found|not found)|Invalid zone|unknown zone",
            "there are no TPUs in the zone {zone}; gcloud compute tpus locations list has the zones",
        ),
        (
            r"[Aa]ccelerator[ _]?type .*(not found|invalid|is not supported)|not available in zone",
            "{zone} has no slices of the type {type}; gcloud compute tpus accelerator-types list --zone {zone}",
        ),
    ),
    "storage": (
        (
            r"bucket name is not available",
            "somebody else has a bucket {bucket}, and names are shared by all the world; choose another BUCKET",
        ),
        (
            r"not have storage\.buckets\.create",
            "your account may not make buckets in this project; an owner has to give it the role Storage Admin",
        ),
        (
            r"not have storage\.\w+\.\w+ access",
            "your account may not use {bucket}, which may be somebody else's; choose another BUCKET, or have its owner "
            "give your account the role Storage Admin",
        ),
        (
            r"HTTPError 429|[Qq]uota exceeded",
            "Cloud Storage takes so many requests of your project in a minute, and these were more; wait a minute and "
            "give the same command again",
        ),
    ),
}
_OF_RIGHTS: _Explanations = (
    (
        r"PERMISSION_DENIED|[Dd]oes not have permission|HTTPError 403",
        "your account may not do this in this project; an owner has to give it the role, or enable the API, that is "
        "named above",
    ),
)


class Gcloud:
    """Commands in the project and zone of the settings. dry_run: each is printed and none is run."""

    def __init__(self, settings: Settings, dry_run: bool):
        self.settings, self.dry_run = settings, dry_run

    def command(self, *arguments: str) -> list[str]:
        project = [f"--project={self.settings.project}"] if self.settings.project else []
        return ["gcloud", *arguments, *project, *_QUIET]

    def change(self, *arguments: str) -> None:
        """Runs what changes something, however long it takes, and lets the user see what it says."""
        command = self.command(*arguments)
        print(f"$ {shlex.join(command)}", flush=True)
        if not self.dry_run:
            self._check(command, *_seen(command))

    def look(self, *arguments: str, fields: str = "", seconds: float = _LOOK_SECONDS) -> Any:
        """What a command tells, as JSON; None where there is no such thing, or nothing is to be run.

        fields: of it, as in "name,size", by default all; seconds: that it may take, or it is a CloudError.
        """
        told = self.text(*arguments, f"--format=json{f'({fields})' if fields else ''}", seconds=seconds)
        return None if told is None else json.loads(told or "null")

    def text(self, *arguments: str, seconds: float = _LOOK_SECONDS) -> str | None:
        """As `look`, but what it tells as it is."""
        command = self.command(*arguments)
        if self.dry_run:
            print(f"$ {shlex.join(command)}", flush=True)
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except OSError as error:
            raise _not_started(error) from None
        except subprocess.TimeoutExpired:
            raise CloudError(f"{shlex.join(command)} gave no answer in {seconds:g} s; try again") from None
        if done.returncode and re.search(r"NOT_FOUND|was not found|HTTPError 404|not found: 404", done.stderr):
            return None
        self._check(command, done.returncode, done.stderr)
        return done.stdout

    def _check(self, command: list[str], code: int, said: str) -> None:
        if code:
            ended = CloudError(f"{shlex.join(command)} ended with {code}: {_last_error(said)}")
            raise _explanation(said, self.settings, command[1]) or ended


def explained(said: str, settings: Settings) -> CloudError:
    """What a TPU's failure means, by its text; NoCapacityError where later may be better, the text if it is unknown."""
    return _explanation(said, settings, "compute") or CloudError(_last_error(said))


def _explanation(said: str, settings: Settings, group: str) -> CloudError | None:
    values = {"zone": settings.zone, "type": settings.type, "name": settings.name, "bucket": settings.bucket}
    for pattern, meaning in (*_OF_ACCOUNTS, *_OF_GROUPS.get(group, ()), *_OF_RIGHTS):
        if re.search(pattern, said):
            kind = NoCapacityError if pattern == _NO_CAPACITY else CloudError
            return kind(f"{meaning.format(**values)} (gcloud: {_last_error(said)})")
    return None


def _seen(command: list[str]) -> tuple[int, str]:
    """Exit code, and what went to stderr, which is shown as it comes."""
    said = []
    try:
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise _not_started(error) from None
    with running:
        assert running.stderr is not None
        for line in running.stderr:
            said.append(line)
            sys.stderr.write(line)
    return running.returncode, "".join(said)


def _last_error(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.strip().splitlines()[-1:]
    return errors[-1].removeprefix("ERROR: ").strip() if errors else "it did not say why"


def _not_started(error: OSError) -> CloudError:
    if isinstance(error, FileNotFoundError):
        return missing()
    return CloudError(f"gcloud does not start ({error.strerror}); {_INSTALLATION}")


def missing() -> CloudError:
    return CloudError(f"gcloud is not installed; {_INSTALLATION}")
