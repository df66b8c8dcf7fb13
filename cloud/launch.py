"""One training on all hosts of a slice: installed, started, stopped."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from cloud import kept
from cloud.errors import CloudError
from cloud.hosts import CALL, Answer, Hosts
from cloud.passed_on import PASSED_ON, refuse_secrets
from cloud.settings import Settings
from cloud.source import Code

_FILE = "launch.json"
_INSTALL_SECONDS = 1800.0
_START_SECONDS = 120.0
_STOP_SECONDS = 300.0  # that a training has for its last checkpoint


@dataclass(frozen=True)
class Launch:
    """What `train` was told.

    run: folder of the run; config: the YAML file's text; arguments: of `jaxgpt train`; secrets: names of those that
    were in the environment; hours_left: of MAX_HOURS, where slices that are gone have used some.
    """

    run: str
    config: str
    arguments: list[str]
    delete_when_done: bool = False
    secrets: list[str] = field(default_factory=list)
    hours_left: float | None = None

    def save(self, settings: Settings) -> None:
        """For `watch`, which starts the same again."""
        kept.write(settings, _FILE, json.dumps(asdict(self), indent=1).encode())

    def trains_as(self, other: "Launch") -> bool:
        return (self.run, self.config, self.arguments) == (other.run, other.config, other.arguments)


def make_launch(settings: Settings, config: Path, run: str, arguments: Sequence[str], delete_when_done: bool) -> Launch:
    """CloudError where the training could not be what is meant."""
    refuse_secrets(arguments)
    if not re.fullmatch(r"[\w.-]+", run):
        raise CloudError(f"--run is {run!r}; give letters, digits, dots and dashes: it is the name of a folder")
    if not settings.bucket and (delete_when_done or settings.spot):
        why = "--delete-when-done" if delete_when_done else f"PURCHASE is {settings.purchase}, and it"
        raise CloudError(f"{why} would take the run away with the slice; set BUCKET, where checkpoints are copied to")
    try:
        text = config.read_text(encoding="utf-8")
    except OSError as error:
        raise CloudError(f"--config {config}: {error.strerror}; give a YAML file, as in configs/") from None
    mirror = [f"--checkpoint.mirror={settings.bucket}/runs/{run}"] * bool(settings.bucket)
    secrets = [name for name in PASSED_ON if name in os.environ]
    return Launch(run, text, [*mirror, "--log.all_hosts=true", *arguments], delete_when_done, secrets)


def kept_launch(settings: Settings) -> Launch | None:
    """The one that `save` kept; CloudError where it can't be read."""
    text = kept.read(settings, _FILE)
    try:
        return None if text is None else Launch(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise CloudError(
            f"what was launched on {settings.name} can't be read any more ({error}); give --config, as for train"
        ) from None


def put_back(settings: Settings, former: Launch | None) -> None:
    """What was kept before a launch that did not start."""
    if former:
        former.save(settings)
    else:
        kept.forget(settings, _FILE)


def require_secrets(launch: Launch) -> None:
    """CloudError names those that the launch had and this environment has not."""
    lacking = [name for name in launch.secrets if name not in os.environ]
    if lacking:
        raise CloudError(
            f"{', '.join(lacking)}: set when {launch.run} was launched, and not now; export it, and give the command "
            "again"
        )


def set_up(hosts: Hosts, code: Code) -> None:
    """The code and its environment on all hosts; CloudError names those where it failed."""
    # Each call has a folder of its own, so that two at once do not mix their files.
    unpack = "mkdir -p ~/jaxgpt && cd ~/jaxgpt && new=$(mktemp -d src.XXXXXX) && tar xzf - -C $new"
    command = f"{unpack} && python3 $new/cloud/host.py install {code.version}; code=$?; rm -rf $new; exit $code"

    def say(answer: Answer) -> None:
        print(f"host {answer.worker}: {answer.trouble or f'{code.version} is installed'}", flush=True)

    shown = f" < {code.version}.tar.gz"
    answers = hosts.call(command, _INSTALL_SECONDS, say=say, sent=code.archive, shown=shown)
    _require(answers, "was not set up", "mend it and give the same command again; hosts that are ready lose nothing")


def start(hosts: Hosts, launch: Launch, version: str) -> None:
    """On all hosts or on none: where one does not start, the others are stopped again, and CloudError says why.

    version: that hosts have to be set up with.
    """
    require_secrets(launch)
    secrets = {name: os.environ[name] for name in launch.secrets}
    launch_id = uuid4().hex
    request = {
        "id": launch_id,
        "version": version,
        "run": launch.run,
        "config": launch.config,
        "arguments": launch.arguments,
        "delete_when_done": launch.delete_when_done,
        "environment": secrets,
    }
    names = f", environment: {', '.join(secrets)}" if secrets else ""
    shown = f" <<< '{{run: {launch.run}, arguments: {' '.join(launch.arguments)}{names}}}'"
    answers = hosts.call(f"{CALL} start", _START_SECONDS, sent=json.dumps(request).encode(), shown=shown)
    if any(answer.trouble for answer in answers):
        # On all of them: of a host that did not answer nobody knows whether it started.
        stopped = stop(hosts, 0, of=launch_id)
        unknown = ", ".join(str(answer.worker) for answer in stopped if answer.trouble)
        then = f"host {unknown} could not be asked to stop: cloud/tpu stop" if unknown else "none of them runs it"
        _require(answers, "did not start", then)


def stop(hosts: Hosts, seconds: float = _STOP_SECONDS, *, by_hand: bool = False, of: str = "any") -> list[Answer]:
    """seconds: for the last checkpoint; then what is left is killed. of: id of the only start that is meant."""
    by = "hand" if by_hand else "watch"
    return hosts.call(f"{CALL} stop {seconds:g} {by} {of}", seconds + _START_SECONDS)


def _require(answers: Sequence[Answer], what: str, then: str) -> None:
    """CloudError where one of the answers is trouble."""
    bad = [answer for answer in answers if answer.trouble]
    if bad:
        each = "; ".join(f"host {answer.worker} {what}: {answer.trouble}" for answer in bad)
        raise CloudError(f"{each} ({len(bad)} of {len(answers)} hosts; {then})")
