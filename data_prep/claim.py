"""Whether an output folder is free, holds this very build, or is not ours to touch."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.build import BUILD
from data_prep.options import Options
from data_prep.sources.chunk import Source
from jaxgpt.data.atomic import write_text
from jaxgpt.data.manifest import FILE, load_manifest
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError


def fingerprint(options: Options, sources: Sequence[Source], tokenizer: Tokenizer) -> dict[str, Any]:
    """What two builds must have in common to give the same bytes."""
    build = {
        "options": options.as_dict(),
        "tokenizer_hash": tokenizer.hash,
        "sources": [_state(source) for source in sources],
        "cleaning": options.clean.fingerprint(),
    }
    return json.loads(json.dumps(build))  # as it will be read back


def _state(source: Source) -> dict[str, Any]:
    """A digest of the source's files: a corpus may have millions, and every training host reads the manifest."""
    files = source.fingerprint()
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return {"source": source.spec, "files": len(files), "size": source.size, "sha256": digest}


def claim_output(output: Path, build: dict[str, Any]) -> bool:
    """Prepares the folder; True where this very build is already finished there. Never touches anything foreign."""
    record = output / BUILD / "build.json"
    if (output / FILE).is_file():
        before: Any = load_manifest(output).options
        state = "holds pages"
        shutil.rmtree(output / BUILD, ignore_errors=True)  # of a call that was killed right after its manifest
    elif record.is_file():
        before, state = json.loads(record.read_text(encoding="utf-8")), "holds an unfinished build"
    elif output.exists() and (not output.is_dir() or any(path != record.parent for path in output.iterdir())):
        raise UserError(f"--output {output} already holds something else; give a new folder")
    else:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(build))
        return False
    if before != build:
        raise UserError(
            f"--output {output} {state} of a different build ({_difference(before, build)}); "
            "give a new folder, or delete that one"
        )
    return state == "holds pages"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keeps other builds out of the folder; UserError where one is at work there."""
    with (output / BUILD / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--output {output}: another build is writing there; wait for it, or stop it") from None
        yield


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for name, value in now["options"].items():
        if before["options"].get(name) != value:
            return f"--{name} was {before['options'].get(name)}, now {value}"
    for source in now["sources"]:
        if source not in before["sources"]:
            return f"--source {source['source']} has changed"
    return "the blocklist or the tokenizer has changed"
