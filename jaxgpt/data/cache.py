"""Pages in a bucket, as a folder on this machine that holds what its training needs."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxgpt.caches import cache_folder
from jaxgpt.data.atomic import remove_partial, replacing
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, load_manifest
from jaxgpt.data.records import crc32c_of_file
from jaxgpt.data.storage import Remote, UnreachableError, find_below, in_threads, is_remote, open_binary
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

_THREADS = 8
_BLOCK = 8 << 20  # bytes of one request


def page_folder(path: str, splits: Sequence[str], cache: str | None = None) -> Path:
    """The folder of pages that `path` names; one in a bucket is copied into the cache first."""
    return local_pages(path, splits, cache_folder(cache)) if is_remote(path) else Path(path)


def folder_of(url: str, cache_dir: Path) -> Path:
    """The folder below `cache_dir` in which the pages at `url`, and no others, are copied."""
    url = url.rstrip("/")
    return cache_dir / f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def local_pages(url: str, splits: Sequence[str], cache_dir: Path) -> Path:
    """A folder below `cache_dir` with the manifest, the tokenizer and the shards of `splits` of the pages at `url`.

    What an earlier call copied is used again. Processes that want the same pages wait for each other.
    UserError where there are no finished pages, a file there is not what the manifest says, or the disk is too small.
    """
    url = url.rstrip("/")
    folder = folder_of(url, cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        there = find_below(url)
        if FILE not in there:
            what = "holds an upload that did not finish; start it again" if there else "is empty; upload pages there"
            raise UserError(f"{url} has no {FILE}: it {what}")
        _prepare(folder, there)
        if not _is_here(folder / FILE, there[FILE]):
            fetch(there[FILE], folder / FILE)
        tokenizer = [name for name in there if name.startswith(f"{TOKENIZER_FOLDER}/")]
        _download(there, tokenizer + _shards(url, folder, splits, there), folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(folder: Path, there: dict[str, Remote]) -> None:
    """Keeps only what is whole and belongs to the manifest that is there.

    Since every file was checked when it came, a file's size is enough as long as the manifest is the same.
    """
    remove_partial(folder)
    manifest = folder / FILE
    if manifest.is_file() and crc32c_of_file(manifest) == there[FILE].crc32c:
        return
    for path in list(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            remote = there.get(path.relative_to(folder).as_posix())
            if remote is None or crc32c_of_file(path) != remote.crc32c:
                path.unlink()


def _shards(url: str, folder: Path, splits: Sequence[str], there: dict[str, Remote]) -> list[str]:
    """Names of the splits' files; UserError where the bucket has another file than the manifest says, or none."""
    manifest = load_manifest(folder)
    shards = [shard for split in dict.fromkeys(splits) for shard in manifest.split(split, folder).shards]
    for shard in shards:
        found = there.get(shard.file)
        if found is None or (found.bytes, found.crc32c) != (shard.bytes, shard.crc32c):
            has = f"has {found.bytes} bytes with CRC-32C {found.crc32c}" if found else "is missing"
            raise UserError(
                f"{url}/{shard.file} {has}, its manifest says {shard.bytes} bytes with {shard.crc32c}; "
                "upload the pages again"
            )
    return [shard.file for shard in shards]


def _download(there: dict[str, Remote], names: Sequence[str], folder: Path) -> None:
    """Copies those objects that are not here yet, several at a time, each checked before it takes its name."""
    missing = [name for name in names if not _is_here(folder / name, there[name])]
    n_bytes, free = sum(there[name].bytes for name in missing), shutil.disk_usage(folder).free
    if n_bytes > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, the pages need {n_bytes / 1e9:.1f} GB more; free some space, or "
            "name a folder on another disk with data.cache (`jaxgpt perplexity`: --cache)"
        )

    if missing:
        with progress_bar(total=n_bytes, unit="B", unit_scale=True, desc=f"copy to {folder}") as bar:
            for done in in_threads(lambda name: fetch(there[name], folder / name), missing, _THREADS):
                bar.update(done)


def fetch(remote: Remote, path: Path) -> int:
    """Copies one object, checked against its CRC-32C in the bucket; its number of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        with open_binary(remote.url) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        found = crc32c_of_file(temporary)
        if found != remote.crc32c:
            raise UnreachableError(
                f"{remote.url} came with CRC-32C {found}, the bucket says {remote.crc32c}: it changed meanwhile, or "
                "was damaged on its way; run the same command again"
            )
    return remote.bytes


def _is_here(path: Path, remote: Remote) -> bool:
    return path.is_file() and path.stat().st_size == remote.bytes
