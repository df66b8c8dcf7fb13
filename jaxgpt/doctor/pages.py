"""Are the pages whole as far as a glance tells, and do they fit the model?"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from jaxgpt.config import Config
from jaxgpt.data.cache import fetch, folder_of
from jaxgpt.data.loader import Pages
from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, check_fits, load_manifest
from jaxgpt.data.records import crc32c_of_file
from jaxgpt.data.storage import Remote, find_below, is_remote
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.doctor.bucket import check_reach
from jaxgpt.doctor.check import Line, explained, size
from jaxgpt.doctor.machine import cache_of, free_bytes
from jaxgpt.errors import UserError

_ROWS = 64  # that are read, at most


def check_pages(cfg: Config, has_model: bool) -> Iterator[Line]:
    """has_model: whether cfg.model was given; else nothing has to fit it."""
    path = cfg.data.path.rstrip("/")
    with ExitStack() as stack:
        folder, there = Path(cfg.data.path), None
        if is_remote(path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            there = _fetch_little(path, folder)
        name = "pages"
        try:
            manifest = load_manifest(folder)
            if has_model:
                _check_length(manifest, folder, cfg)
            yield _read(cfg, folder) if there is None else _listed(cfg, manifest, folder, there)
            name = "tokenizer"
            yield _tokenizer(cfg, manifest, folder, has_model)
        except (UserError, OSError) as error:
            said = explained(error)
            if there is not None:  # of the copies nobody knows
                said = said.replace(str(folder), path)
            yield Line("fail", name, said)


def _check_length(manifest: Manifest, folder: Path, cfg: Config) -> None:
    if (cfg.data.seq_len or manifest.row_length) > cfg.model.n_positions:
        raise UserError(
            f"rows of {manifest.row_length} tokens in {folder} are longer than model.n_positions "
            f"{cfg.model.n_positions}; raise model.n_positions or set data.seq_len"
        )


def _read(cfg: Config, folder: Path) -> Line:
    """Opens every shard, whose size must be right, and reads rows of the run's first batch from all over them."""
    pages = [Pages(folder, split, cfg.data.seq_len) for split in (cfg.data.train_split, cfg.data.valid_split)]
    n_rows = min(cfg.train.batch_size, _ROWS)
    began = time.monotonic()
    pages[0].shuffled(cfg.seed, 0, n_rows)
    seconds = time.monotonic() - began
    rows = f"{pages[0].n_rows(shuffled=True):,} rows of {pages[0].seq_len} tokens"
    said = f"{folder}: {rows} in {_shards(pages[0].manifest, cfg)}; {n_rows} rows read in {seconds * 1e3:.0f} ms"
    return Line("ok", "pages", f"{said} (`jaxgpt inspect {folder} --verify` reads all)")


def _shards(manifest: Manifest, cfg: Config) -> str:
    """A phrase. Hosts read rows by their number, so any number of shards serves any number of hosts."""
    count = len(manifest.splits[cfg.data.train_split].shards)
    return f"{count} shard{'s' * (count != 1)}, which serve{'s' * (count == 1)} any number of hosts"


def _fetch_little(url: str, folder: Path) -> dict[str, Remote]:
    """All objects at `url`, of which the manifest and the tokenizer are copied to `folder`."""
    check_reach()
    there = find_below(url)
    if FILE not in there:
        what = "holds an upload that did not finish; start it again" if there else "is empty; upload pages there"
        raise UserError(f"{url} has no {FILE}: it {what}")
    for name, remote in there.items():
        if name == FILE or name.startswith(f"{TOKENIZER_FOLDER}/"):
            fetch(remote, folder / name)
    return there


def _listed(cfg: Config, manifest: Manifest, folder: Path, there: dict[str, Remote]) -> Line:
    """Compares the shards that are there with the manifest, and their bytes with the room that the cache has."""
    url = cfg.data.path.rstrip("/")
    names = dict.fromkeys((cfg.data.train_split, cfg.data.valid_split))
    splits = [manifest.split(name, folder) for name in names]
    shards = [shard for split in splits for shard in split.shards]
    wrong = [
        shard.file
        for shard in shards
        if shard.file not in there or (there[shard.file].bytes, there[shard.file].crc32c) != (shard.bytes, shard.crc32c)
    ]
    if wrong:
        said = f"{url}: {len(wrong)} of {len(shards)} shards are missing or other than its manifest says ({wrong[0]})"
        raise UserError(f"{said}; upload the pages again")
    cache = cache_of(cfg)
    missing = _missing_bytes(shards, folder_of(url, cache), there[FILE])
    said = f"{url}: {splits[0].records:,} rows in {_shards(manifest, cfg)}"
    if not missing:
        return Line("ok", "pages", f"{said}; all of them are in {cache}")
    free = free_bytes(cache)
    said += f"; training copies {size(missing)} to {cache}, which has {size(free)} free"
    if missing > free:
        return Line("fail", "pages", f"{said}; make room, or name a folder on another disk with data.cache")
    return Line("ok", "pages", said)


def _missing_bytes(shards: list[ShardInfo], copy: Path, manifest: Remote) -> int:
    """Bytes that training would copy. A shard's size tells only where the copy is of this manifest's pages."""
    path = copy / FILE
    here = path.is_file() and crc32c_of_file(path) == manifest.crc32c
    if not here:
        return sum(shard.bytes for shard in shards)
    sizes = {path.relative_to(copy).as_posix(): path.stat().st_size for path in copy.rglob("*") if path.is_file()}
    return sum(shard.bytes for shard in shards if sizes.get(shard.file) != shard.bytes)


def _tokenizer(cfg: Config, manifest: Manifest, folder: Path, has_model: bool) -> Line:
    path = folder / TOKENIZER_FOLDER
    again = "build the pages again or copy the folder from its source"
    if not path.is_dir():
        raise UserError(f"{path} is missing; {again}")
    tokenizer = load_tokenizer(str(path))
    if tokenizer.hash != manifest.tokenizer_hash:
        found = f"{path} has the hash {tokenizer.hash[:12]}, {FILE} says {manifest.tokenizer_hash[:12]}"
        raise UserError(f"{found}; {again}")
    said = f"{manifest.tokenizer}, {tokenizer.vocab_size:,} ids"
    if not has_model:
        return Line("ok", "tokenizer", said)
    check_fits(manifest, folder, cfg.model.vocab_size)
    return Line("ok", "tokenizer", f"{said}, as model.vocab_size")
