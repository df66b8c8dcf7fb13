"""One training on all hosts of a slice: installed, started, stopped."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from cloud.errors import CloudError
from cloud.hosts import CALL, Answer, Hosts
from cloud.passed_on import PASSED_ON, refuse_secrets
from cloud.settings import Settings
from cloud.source import pack, version

_INSTALL_SECONDS = 1800.0
_START_SECONDS = 120.0
_STOP_SECONDS = 300.0  # that a training has for its last checkpoint


@dataclass(frozen=True)
class Launch:
    """What `train` was told.

    run: folder of the run; config: the YAML file's text; arguments: of `jaxgpt train`; secrets: names of those that
    were in the environment.
    """

    run: str
    config: str
    arguments: list[str]
    delete_when_done: bool = False
    secrets: list[str] = field(default_factory=list)

    def save(self, settings: Settings) -> None:
        """For `watch`, which starts the same again."""
        file = _file(settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


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


def kept_launch(settings: Settings) -> Launch:
    """The one that `save` kept; CloudError where there is none."""
    try:
        return Launch(**json.loads(_file(settings).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CloudError(f"nothing was launched on {settings.name} from here; give --config, as for train") from None


def set_up(hosts: Hosts, kind: str = "tpu") -> None:
    """The code of this clone and its environment on all hosts; CloudError names those where it failed."""
    what = version()
    unpack = "mkdir -p ~/jaxgpt && cd ~/jaxgpt && rm -rf src.new && mkdir src.new && tar xzf - -C src.new"
    command = f"{unpack} && python3 src.new/cloud/host.py install {kind} {what}"

    def say(answer: Answer) -> None:
        print(f"host {answer.worker}: {answer.trouble or f'{what} is installed'}", flush=True)

    # gcloud makes its ssh key at the first call, which must not be made by several at once.
    hosts.call("true", _START_SECONDS, workers=[0])
    answers = hosts.call(command, _INSTALL_SECONDS, say=say, sent=pack(), shown=f" < {what}.tar.gz")
    _require(answers, "was not set up", "mend it and give the same command again; hosts that are ready lose nothing")


def start(hosts: Hosts, launch: Launch) -> None:
    """On all hosts or on none: where one does not start, the others are stopped again, and CloudError says why."""
    lacking = [name for name in launch.secrets if name not in os.environ]
    if lacking:
        raise CloudError(f"{', '.join(lacking)}: set when {launch.run} was launched, and not now; export it again")
    secrets = {name: os.environ[name] for name in launch.secrets}
    own = uuid4().hex
    request = json.dumps({**asdict(launch), "id": own, "environment": secrets}).encode()
    names = f", environment: {', '.join(secrets)}" if secrets else ""
    shown = f" <<< '{{run: {launch.run}, arguments: {' '.join(launch.arguments)}{names}}}'"
    answers = hosts.call(f"{CALL} start", _START_SECONDS, sent=request, shown=shown)
    if any(answer.trouble for answer in answers):
        # On all of them: of a host that did not answer nobody knows whether it started.
        stop(hosts, 0, of=own)
        _require(answers, "did not start", "none of them runs this training")


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


def _file(settings: Settings) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "jaxgpt" / "launches" / f"{settings.zone}.{settings.name}.json"
