"""A finished folder of pages to a bucket: whole and checked, or the same command goes on."""

import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jaxgpt.data.manifest import FILE, load_manifest
from jaxgpt.data.records import crc32c_of_file
from jaxgpt.data.regions import is_around, is_in
from jaxgpt.data.storage import Remote, UnreachableError, find_below, in_threads, is_remote, locations, send
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

_TRIES = 4
_PAUSE_S = 2.0  # before the second try; twice as long before each further one


@dataclass(frozen=True)
class UploadReport:
    """url: the folder in the bucket; files, bytes: of all of it; files_sent, bytes_sent: of what this call sent."""

    url: str
    files: int
    bytes: int
    files_sent: int
    bytes_sent: int


@dataclass(frozen=True)
class _File:
    """name: within the folder; crc32c: what it must be, for a shard by the manifest."""

    name: str
    path: Path
    bytes: int
    crc32c: str

    def is_in(self, there: dict[str, Remote]) -> bool:
        found = there.get(self.name)
        return found is not None and (found.bytes, found.crc32c) == (self.bytes, self.crc32c)


def upload(folder: Path, url: str, region: str | None = None, threads: int = 8) -> UploadReport:
    """Copies every file of the page folder to `url`, the manifest last; what is already there is not sent again.

    region: where the bucket must be, `us-central1` for example; a dual- or multi-region counts where it contains it.
    UserError, before anything is sent, where the bucket is missing, forbidden or elsewhere, or `url` holds something
    else; and where the network fails for long: the same call then goes on.
    """
    url = url.rstrip("/")
    files = _files_of(folder)
    there = check_bucket(url, region)
    _check_ours(folder, files, url, there)
    todo = [file for file in files if not file.is_in(there)]
    arrived = {file.name for file in files} - {file.name for file in todo}
    total, left = sum(file.bytes for file in files), sum(file.bytes for file in todo)
    with progress_bar(total=total, initial=total - left, unit="B", unit_scale=True, desc=f"upload to {url}") as bar:
        try:
            # As long as there is no manifest, nobody takes the folder for whole.
            for part in (files[:-1], files[-1:]):
                _send_missing(part, url, threads, arrived, bar)
        except UnreachableError as error:
            raise UserError(
                f"{len(arrived)} of {len(files)} files are in {url}, and the same command goes on from there; {error}"
            ) from error
    return UploadReport(url, len(files), total, len(todo), left)


def check_bucket(url: str, region: str | None = None) -> dict[str, Remote]:
    """What is below `url`, by name; UserError where the bucket is missing, forbidden or outside of `region`."""
    if not is_remote(url):
        raise UserError(f"{url} is not in a bucket; give gs://BUCKET/FOLDER")
    if region is not None:
        _check_region(url, region)
    return find_below(url)


def _files_of(folder: Path) -> list[_File]:
    """Everything in the folder but hidden files, the manifest last; UserError where a shard is missing or cut off."""
    shards = {shard.file: shard for split in load_manifest(folder).splits.values() for shard in split.shards}
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = []
    for relative, path in paths.items():
        if any(part.startswith(".") for part in relative.parts):
            continue
        name, size = relative.as_posix(), path.stat().st_size
        shard = shards.pop(name, None)
        if shard and shard.bytes != size:
            raise UserError(f"{path} has {size} bytes, its manifest says {shard.bytes}; build the pages again")
        files.append(_File(name, path, size, shard.crc32c if shard else crc32c_of_file(path)))
    if shards:
        raise UserError(f"{folder / min(shards)} is missing, {folder / FILE} names it; build the pages again")
    return sorted(files, key=lambda file: file.name == FILE)


def _check_region(url: str, region: str) -> None:
    wanted, found = region.lower(), locations(url)
    location, *named = found
    if is_in(wanted, location, named) or is_around(wanted, location, named):
        return
    raise UserError(
        f"{url}: the bucket is in {' / '.join(found)}, not in {wanted}, and reading across regions costs money; "
        f"make a bucket with `gcloud storage buckets create --location={wanted}`, or give another region"
    )


def _check_ours(folder: Path, files: list[_File], url: str, there: dict[str, Remote]) -> None:
    manifest = files[-1]
    if FILE in there and not manifest.is_in(there):
        raise UserError(
            f"{url} holds other pages ({FILE} there has CRC-32C {there[FILE].crc32c}, in {folder} {manifest.crc32c}); "
            "give a new folder, or delete that one"
        )
    foreign = there.keys() - {file.name for file in files}
    if foreign:
        raise UserError(
            f"{url} already holds something else ({min(foreign)}, which is not in {folder}); "
            "give a new folder, or delete that one"
        )


def _send_missing(files: list[_File], url: str, threads: int, arrived: set[str], bar: tqdm) -> None:
    """Sends files until the bucket lists each with its size and CRC-32C; `arrived` always holds the names of those."""

    def send_one(file: _File) -> None:
        _send(file, url, bar)
        arrived.add(file.name)

    problem = UnreachableError(
        f"{url}: what arrived was not what was sent; check the network and run the same command again"
    )
    for attempt in range(_TRIES + 1):
        try:
            there = find_below(url)
            arrived.difference_update(file.name for file in files if not file.is_in(there))
            missing = [file for file in files if file.name not in arrived]
            if not missing:
                return
            if attempt < _TRIES:
                list(in_threads(send_one, missing, threads))
        except UnreachableError as error:
            problem = error
            if attempt < _TRIES:
                time.sleep(_PAUSE_S * 2**attempt)
    raise problem


def _send(file: _File, url: str, bar: tqdm) -> None:
    found = crc32c_of_file(file.path)
    if found != file.crc32c:
        raise UserError(
            f"{file.path} is damaged: its CRC-32C is {found}, it was {file.crc32c} when it was written; "
            "build the pages again"
        )
    sent = 0

    def on_progress(now: int) -> None:
        nonlocal sent
        bar.update(now - sent)
        sent = now

    try:
        send(file.path, f"{url}/{file.name}", on_progress)
    except UserError:
        on_progress(0)
        raise
