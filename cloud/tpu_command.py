"""`cloud/tpu`: create, setup, train, status, logs, ssh, watch, stop, delete."""

import argparse
import os
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cloud import command
from cloud.check_options import check_options
from cloud.errors import CloudError
from cloud.gcloud import Gcloud, missing
from cloud.hosts import CALL, Hosts
from cloud.kept import keep_code, kept_code
from cloud.launch import Launch, kept_launch, make_launch, put_back, set_up, start, stop
from cloud.settings import Settings, load_settings
from cloud.slices import Slice
from cloud.source import pack
from cloud.status import cost, summary, table
from cloud.watch import Watch

_ENDS = "cloud/tpu delete ends its cost"
_ENVIRONMENT = "export PATH=~/jaxgpt/venv/bin:$PATH"


class _Tpu:
    """What the settings stand for."""

    def __init__(self, args: argparse.Namespace):
        self.settings = load_settings()
        if getattr(args, "max_hours", None) is not None:
            self.settings = replace(self.settings, max_hours=str(args.max_hours))
        self.gcloud = Gcloud(self.settings, args.dry_run)
        self.slice = Slice(self.gcloud)
        self.hosts = Hosts(self.gcloud)

    @property
    def hours(self) -> float | None:
        return float(self.settings.max_hours) if self.settings.max_hours else None

    def require_ready(self) -> None:
        """CloudError where there are no hosts to speak to, or others than the settings say."""
        node = self.slice.node()
        if self.gcloud.dry_run:
            return
        if node is None or node["state"] != "READY":
            state = "not there" if node is None else node["state"]
            raise CloudError(f"the slice {self.settings.name} is {state}; cloud/tpu create makes it or waits for it")
        self.slice.check_type(node)


def create(args: argparse.Namespace) -> None:
    """Make the slice of cloud/settings.env, or wait for it; one that was taken away is made anew."""
    tpu = _Tpu(args)
    own = tpu.settings
    print(f"{own.name}: {own.type}, {tpu.hosts}, {cost(own, 1)}", flush=True)
    try:
        made = tpu.slice.create(tpu.hours)
    except KeyboardInterrupt:
        print(f"what was asked for may still come, and cost; {_ENDS}", flush=True)
        raise
    if not args.dry_run:
        print(summary(own, tpu.slice.node(), datetime.now(tz=UTC)))
        if not made and args.max_hours is not None:
            print("hours of a slice that is there can't be changed")


def setup(args: argparse.Namespace) -> None:
    """Install this clone and its pinned environment on all hosts."""
    tpu = _Tpu(args)
    tpu.require_ready()
    code = pack()
    set_up(tpu.hosts, code)
    if not args.dry_run:
        keep_code(tpu.settings, code)


def train(args: argparse.Namespace) -> None:
    """Start `jaxgpt train` with these options on all hosts; it goes on when this command and your laptop sleep."""
    tpu = _Tpu(args)
    launch = _launch(args, tpu.settings)
    tpu.require_ready()
    if args.dry_run:
        start(tpu.hosts, launch, pack().version)
        return
    version, former = kept_code(tpu.settings).version, kept_launch(tpu.settings)
    if (now := pack().version) != version:
        print(f"the hosts run {version}; the clone is {now}, which cloud/tpu setup would install", flush=True)
    launch.save(tpu.settings)  # before it is started: a watch must know what may run
    try:
        start(tpu.hosts, launch, version)
    except CloudError:
        put_back(tpu.settings, former)
        raise
    print(f"{launch.run} is training on {tpu.hosts}; cloud/tpu status, logs or watch shows it")


def status(args: argparse.Namespace) -> int:
    """Show the slice, what it costs, and each host; exit code 1 where a host is missing or its training is lost."""
    tpu = _Tpu(args)
    node = tpu.slice.node()
    if not args.dry_run:
        in_line = tpu.slice.in_line() if node is None else None
        print(summary(tpu.settings, node, datetime.now(tz=UTC), in_line), flush=True)
        if node is None or node["state"] != "READY":
            return 1
        tpu.slice.check_type(node)
    answers = tpu.hosts.status()
    if args.dry_run:
        return 0
    print(table(answers))
    return int(any(answer.trouble or answer.values["state"] in ("failed", "killed") for answer in answers))


def logs(args: argparse.Namespace) -> int:
    """Show the end of a host's log."""
    tpu = _Tpu(args)
    follow = "follow" if args.follow else "once"
    return _run(tpu, tpu.hosts.command(args.worker, f"{CALL} logs {args.lines} {follow}"))


def ssh(args: argparse.Namespace) -> int:
    """Open a shell on a host, or run a command on one or `all`."""
    tpu = _Tpu(args)
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words and args.worker == "all":
        raise CloudError("--worker all has no shell; give a command, or the number of one host")
    what = f"{_ENVIRONMENT}; {' '.join(words)}" if words else None
    return _run(tpu, tpu.hosts.command(args.worker, what))


def watch(args: argparse.Namespace) -> int:
    """Keep the training going until it is done: make the slice, start it, bring both back when they are lost.

    With --config it starts a new training as `create`, `setup` and `train` do; without, it goes on with what was
    launched from here. Ctrl-C ends the watch and not the training.
    """
    tpu = _Tpu(args)
    new = args.config is not None
    launch = _launch(args, tpu.settings) if new else kept_launch(tpu.settings)
    if launch is None:
        raise CloudError(f"nothing was launched on {tpu.settings.name} from here; give --config, as for train")
    of_new = [*args.options, *(["--run", args.run] if args.run else [])]
    if not new and of_new:
        raise CloudError(f"{shlex.join(of_new)}: that is of a new training; give --config as well")
    if not tpu.settings.bucket:
        raise CloudError("a slice that is made anew has empty disks, so its run has to be in a bucket; set BUCKET")
    if args.delete_when_done:
        launch = replace(launch, delete_when_done=True)
    if args.dry_run:
        tpu.slice.create(tpu.hours)
        set_up(tpu.hosts, code := pack())
        start(tpu.hosts, launch, code.version)
        tpu.hosts.status()
        return 0
    hours = tpu.hours if args.max_hours is not None or launch.hours_left is None else launch.hours_left
    try:
        return Watch(tpu.settings, tpu.slice, tpu.hosts, launch, hours, args.every).run(pack() if new else None)
    except KeyboardInterrupt:
        print(f"the watch ends, and not the training; cloud/tpu watch goes on with it, and {_ENDS}", flush=True)
        raise


def stop_training(args: argparse.Namespace) -> int:
    """End the training after a last checkpoint; the slice stays, and costs. Exit code 1 where a host is not reached."""
    tpu = _Tpu(args)
    tpu.require_ready()
    answers = stop(tpu.hosts, by_hand=True)
    if not args.dry_run:
        print(table(answers))
    return int(any(answer.trouble for answer in answers))


def delete(args: argparse.Namespace) -> None:
    """Delete the slice, and its place in the queue; what is in the bucket stays."""
    tpu = _Tpu(args)
    found = tpu.slice.delete()
    own = tpu.settings
    if args.dry_run:
        return
    if found:
        print(f"{own.name} is deleted; it costs nothing any more")
    else:
        print(f"there is no {own.name} in {own.zone}; gcloud compute tpus tpu-vm list --zone=- shows those elsewhere")


def main(arguments: list[str]) -> int:
    parser = command.make_parser("cloud/tpu", __doc__ or "")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = command.add_command(commands, "create", create)
    _add_hours(made)
    command.add_command(commands, "setup", setup)
    _add_training(command.add_command(commands, "train", train, takes_options=True), config_needed=True)
    command.add_command(commands, "status", status)
    shown = command.add_command(commands, "logs", logs)
    shown.add_argument("--worker", type=int, default=0, help="number of the host")
    shown.add_argument("--lines", type=int, default=50)
    shown.add_argument("--follow", action="store_true", help="go on showing what comes")
    opened = command.add_command(commands, "ssh", ssh)
    opened.add_argument("--worker", default="0", help="number of the host, or all")
    opened.add_argument("command", nargs=argparse.REMAINDER, help="by default a shell")
    watched = command.add_command(commands, "watch", watch, takes_options=True)
    _add_hours(watched)
    watched.add_argument("--every", type=_seconds, default=60.0, help="seconds between two looks")
    _add_training(watched, config_needed=False)
    command.add_command(commands, "stop", stop_training)
    command.add_command(commands, "delete", delete)
    return command.main(parser, arguments)


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return seconds


def _add_hours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-hours", type=float, help="as MAX_HOURS of the settings, and before it")


def _add_training(parser: argparse.ArgumentParser, config_needed: bool) -> None:
    parser.add_argument("--config", type=Path, required=config_needed, help="YAML file, as for `jaxgpt train`")
    parser.add_argument("--run", help="name of the run's folder; by default NAME of the settings")
    parser.add_argument("--delete-when-done", action="store_true", help="delete the slice when the run is done")


def _launch(args: argparse.Namespace, settings: Settings) -> Launch:
    launch = make_launch(settings, args.config, args.run or settings.name, args.options, args.delete_when_done)
    check_options(settings, args.config, launch)
    return launch


def _run(tpu: _Tpu, command_line: list[str]) -> int:
    """In this terminal, in place of this process."""
    if tpu.gcloud.dry_run:
        print(f"$ {shlex.join(command_line)}")
        return 0
    try:
        os.execvp(command_line[0], command_line)
    except FileNotFoundError:
        raise missing() from None
