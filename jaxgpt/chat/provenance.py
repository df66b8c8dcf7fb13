"""What a run's folder says about where its model comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.config import RUN_FILE
from jaxgpt.data.manifest import Manifest, load_manifest, manifest_hash
from jaxgpt.train import checkpoint


@dataclass(frozen=True)
class Provenance:
    """One checkpoint of a run.

    config: of the run when the checkpoint was written; valid_loss: nats per token, None where it was not evaluated;
    data_hash: SHA-256 of the pages' manifest; manifest: None where these pages are not at hand.
    """

    run: Path
    step: int
    config: dict[str, Any]
    valid_loss: float | None
    data_hash: str
    manifest: Manifest | None


def provenance(folder: Path | None, step: int | None) -> Provenance | None:
    """None for a folder that is no run."""
    if folder is None or step is None or not (folder / RUN_FILE).is_file():
        return None
    state = checkpoint.read_run_state(folder, step)
    pages = Path(state.config["data"]["path"])
    manifest = load_manifest(pages) if manifest_hash(pages) == state.data else None
    return Provenance(folder, step, state.config, checkpoint.valid_loss(folder, step), state.data, manifest)
