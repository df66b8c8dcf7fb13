"""`cloud/bucket create`, `check`, `upload`, `size` and `worker-logs`."""

import argparse
import math
import shlex
import subprocess
import sys
from pathlib import Path

from cloud import command
from cloud.bucket_check import check as findings
from cloud.bucket_prices import ACROSS_REGIONS_USD, as_size, monthly_cost
from cloud.buckets import ABORT_RULE, Bucket, expire_rule
from cloud.errors import CloudError
from cloud.gcloud import Gcloud
from cloud.interpreter import python_that_has
from cloud.settings import load_settings
from cloud.source import ROOT
from cloud.worker_logs import show, turn_off, turn_on

_GB = 10**9
_FORCE = "go on where the bucket is not in the region of the zone, though each reading then costs"


def main(arguments: list[str]) -> int:
    parser = command.make_parser("cloud/bucket", "The bucket of cloud/settings.env, for pages and checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = command.add_command(commands, "create", create)
    one.add_argument("--region", help="by default that of the zone")
    one.add_argument("--gb", type=float, default=100, help="what it will hold, for the estimate (default: %(default)s)")
    one.add_argument("--expire-days", type=int, metavar="N", help="delete what is older than so many days …")
    one.add_argument("--expire-prefix", metavar="FOLDER/", help="… and below this; by default nothing is deleted")
    one.add_argument("--force", action="store_true", help=_FORCE)

    command.add_command(commands, "check", check)

    one = command.add_command(commands, "upload", upload)
    one.add_argument("folder", type=Path, help="pages that data_prep/make_tfrecords.py made")
    one.add_argument("--name", help="folder in the bucket (default: the name of the pages' own)")
    one.add_argument("--force", action="store_true", help=_FORCE)

    command.add_command(commands, "size", size)

    one = command.add_command(commands, "worker-logs", worker_logs)
    one.add_argument("state", choices=("off", "on", "show"))
    return command.main(parser, arguments)


def create(args: argparse.Namespace) -> None:
    """Make the bucket in the region of the zone, and say what it will cost; one that is there stays as it is."""
    gcloud = _gcloud(args)
    bucket, own = Bucket(gcloud), gcloud.settings
    region = (args.region or own.region).lower()
    rules = [ABORT_RULE, *_expire_rules(args)]
    if region != own.region and not args.force:
        raise CloudError(
            f"--region {region} is not that of the zone, {own.region}, and reading across regions costs at least "
            f"${ACROSS_REGIONS_USD:.2f} per GiB; leave it out, choose a ZONE there, or give --force"
        )
    if not 0 <= args.gb < math.inf:
        raise CloudError(f"--gb is {args.gb:g}; give 0 or more")
    described = bucket.describe()
    if described is None:
        bucket.create(region, rules)
        location = region
    else:
        bucket.require_near(described, args.force)
        location = described["location"]
        extended = "; its life cycle was extended" if bucket.add_rules(described, rules) else ""
        print(f"{bucket.url} is there already, in {location.lower()}{extended}")
    print(f"{args.gb:g} GB in it cost {monthly_cost(args.gb * _GB, location)}")


def check(args: argparse.Namespace) -> int:
    """Look at region, rights, life cycle and the hosts' account; exit code 1 where the bucket is not fit."""
    gcloud = _gcloud(args)
    states = []
    for finding in findings(gcloud, Bucket(gcloud)):
        states.append(finding.state)
        if not args.dry_run:
            print(f"{finding.state:4}  {finding.what}: {finding.said}", flush=True)
    return int("fail" in states)


def upload(args: argparse.Namespace) -> int:
    """Copy a folder of pages to the bucket; the same command goes on where it stopped."""
    gcloud = _gcloud(args)
    bucket, folder = Bucket(gcloud), args.folder.resolve()
    if not (folder / "manifest.json").is_file():
        raise CloudError(f"{folder} has no manifest.json; data_prep/make_tfrecords.py makes finished pages, which have")
    name = (args.name or folder.name).rstrip("/")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise CloudError(f"--name is {args.name!r}; give a folder in {bucket.url}, as in corpora/{folder.name}")
    described = bucket.describe()
    if described is not None:
        bucket.require_near(described, args.force)
    elif not args.dry_run:
        raise CloudError(f"{bucket.url} does not exist; cloud/bucket create makes it")
    url = f"{bucket.url}/{name}"
    python = python_that_has("gcsfs")
    if python is None and not args.dry_run:
        raise CloudError(f"{sys.executable} lacks gcsfs; make .venv in {ROOT} makes an environment that has it")
    send = [python or sys.executable, "-m", "data_prep.upload_pages", str(folder), url]
    print(f"$ {shlex.join(send)}", flush=True)
    if args.dry_run:
        return 0
    code = subprocess.run(send, cwd=ROOT, check=False).returncode
    if code == 0:
        print(f"train on it with --data.path {url}")
    return code


def size(args: argparse.Namespace) -> None:
    """Show what the bucket holds by folder, and what that costs a month."""
    gcloud = _gcloud(args)
    bucket = Bucket(gcloud)
    described, contents = bucket.describe(), bucket.contents()
    if args.dry_run:
        return
    if described is None or contents is None:
        raise CloudError(f"{bucket.url} does not exist; cloud/bucket create makes it")
    rows = [(name or "(no folder)", one.objects, one.bytes) for name, one in contents.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(len("folder"), *(len(row[0]) for row in rows))
    print(f"{'folder':{width}}  {'objects':>10}  {'size':>12}")
    for name, n, n_bytes in rows:
        print(f"{name:{width}}  {n:10,}  {as_size(n_bytes):>12}")
    print(f"it costs {monthly_cost(rows[-1][2], described['location'])}")


def worker_logs(args: argparse.Namespace) -> None:
    """Stop, start or show the storing of TPU workers' logs in Cloud Logging, which is paid for."""
    {"off": turn_off, "on": turn_on, "show": show}[args.state](_gcloud(args))


def _gcloud(args: argparse.Namespace) -> Gcloud:
    return Gcloud(load_settings(), args.dry_run)


def _expire_rules(args: argparse.Namespace) -> list[dict[str, object]]:
    days, prefix = args.expire_days, args.expire_prefix
    if (days is None) != (not prefix):
        raise CloudError(f"--expire-days is {days} and --expire-prefix {prefix}; give both or none of them")
    if days is not None and days < 1:
        raise CloudError(f"--expire-days is {days}; give 1 or more")
    return [] if days is None else [expire_rule(prefix, days)]
