"""What a training in a container sees of this machine, and under which names."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cloud.errors import CloudError

INSIDE = PurePosixPath("/jaxgpt")  # of the image: where the clone is
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_ENTRY = re.compile(r"^ *(\w+):[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)  # of a YAML file, with a value in its line


class Mount(NamedTuple):
    """here: on this machine, absolute: docker takes other names for volumes of its own; options: ro for example."""

    here: Path
    there: PurePosixPath
    options: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, (str(self.here), str(self.there), self.options)))


def cache_folder() -> Path:
    """Of this account."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "jaxgpt"


def key_file() -> Path | None:
    """For gs://, where there is one; CloudError where the environment names one that there is not."""
    named = os.environ.get(CREDENTIALS)
    key = Path(named or Path.home() / ".config/gcloud/application_default_credentials.json").absolute()
    if named and not key.is_file():
        raise CloudError(f"{CREDENTIALS} is {named}, and there is no such file; unset it, or give the file of your key")
    return key if key.is_file() else None


def parse_mount(given: str) -> Mount:
    """Of HERE:THERE, with options of docker's behind another colon; CloudError where it is something else."""
    here, _, rest = given.partition(":")
    there, _, options = rest.partition(":")
    if not here or not there.startswith("/"):
        raise CloudError(f"--volume is {given}; give HERE:THERE, as in /big/pages:/pages")
    if not Path(here).exists():
        raise CloudError(f"--volume is {given}, and there is no {here} here; give a folder that there is")
    return Mount(Path(here).absolute(), PurePosixPath(os.path.normpath(there)), options)


def require_seen(options: Sequence[str], config: Path, mounts: Iterable[Mount]) -> None:
    """CloudError where a path in the options or in the configuration leads to what goes with the container."""
    given = list(_pairs(options))
    options_over_file = {name.rpartition(".")[2] for name, _ in given}
    in_file = _ENTRY.findall(config.read_text(encoding="utf-8", errors="replace"))
    seen = [mount.there for mount in mounts]
    for name, value in (*given, *(pair for pair in in_file if pair[0] not in options_over_file)):
        relative = name == "output" and "://" not in value
        if not (relative or value.startswith(("/", "../", "~/"))):
            continue
        place = PurePosixPath(os.path.normpath(INSIDE / value))
        if not any(place.is_relative_to(one) for one in seen):
            raise CloudError(
                f"{name} is {value}, which is nothing of this machine in the container and is gone with it; give a "
                f"folder in runs/ or data/, or show it another one by --volume HERE:THERE"
            )


def training_mounts(root: Path, config: Path, key: Path | None, volumes: Iterable[str]) -> list[Mount]:
    """runs/ and data/ of the clone at `root`, the cache, what --volume shows besides, and the files that it needs."""
    keys = [Mount(key, PurePosixPath("/credentials.json"), "ro")] if key else []
    return [
        Mount(root / "runs", INSIDE / "runs"),
        Mount(root / "data", INSIDE / "data", "ro"),
        Mount(cache_folder(), PurePosixPath("/cache/jaxgpt")),
        Mount(config, INSIDE / "config.yaml", "ro"),
        *map(parse_mount, volumes),
        *keys,
    ]


def _pairs(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of options, without dashes, and their values."""
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            if equals:
                yield name, value
        else:
            yield name, word
