"""A `uv` for tests, which makes environments in no time: bin/jaxgpt of them is a given script."""

import sys
from pathlib import Path

OURS = f'#!/bin/sh\nexec "{sys.executable}" -m jaxgpt "$@"\n'
_UV = """#!/bin/bash
# Notes its calls; ends with what {folder}/fail says, once; waits for {folder}/go where {folder}/wait is there.
echo "$*" >> {folder}/calls
case "$1" in
    venv)
        mkdir -p "${{@: -1}}/bin"
        touch "${{@: -1}}/pyvenv.cfg" "${{@: -1}}/bin/python" ;;
    pip)
        while [ -e {folder}/wait ] && [ ! -e {folder}/go ]; do sleep 0.02; done
        if [ -e {folder}/fail ]; then
            cat {folder}/fail >&2
            rm {folder}/fail
            exit 2
        fi
        case "$*" in *" -e "*) install -m 755 {folder}/jaxgpt "$(dirname "$4")" ;; esac ;;
esac
"""


class Uv:
    """Its program is in `folder`/bin."""

    def __init__(self, folder: Path, jaxgpt: str = OURS):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "jaxgpt").write_text(jaxgpt)
        (folder / "bin" / "uv").write_text(_UV.format(folder=folder))
        (folder / "bin" / "uv").chmod(0o755)

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def fail(self, said: str) -> None:
        """The next installation of packages ends with this."""
        (self.folder / "fail").write_text(said)

    def wait(self) -> None:
        """Installations of packages wait from now on …"""
        (self.folder / "wait").touch()

    def go(self) -> None:
        """… until now."""
        (self.folder / "go").touch()


def clone(folder: Path) -> Path:
    """The tree as links: what is written beside them is not written into it."""
    root = Path(__file__).parents[2]
    folder.mkdir()
    for path in root.iterdir():
        if not path.name.startswith(".") and path.name not in ("runs", "data"):
            (folder / path.name).symlink_to(path)
    return folder
