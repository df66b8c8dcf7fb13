"""A world without a cloud: a stand-in for gcloud on PATH, settings, and hosts that are folders of this machine."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gcloud_stand_in import World

from cloud import hosts, tpu_command, watch

ROOT = Path(__file__).parents[2]
_GCLOUD = f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "gcloud_stand_in.py"}" "$@"\n'
# Of a host: its environment is this one's, and its package is the tree that was sent.
_UV = f"""#!/bin/sh
case "$1" in
venv) for venv; do :; done; mkdir -p "$venv/bin"; ln -sf "{sys.executable}" "$venv/bin/python" ;;
pip)
    for root; do :; done
    case "$*" in *" -e "*)
        venv=$(dirname "$(dirname "$4")")
        printf '#!/bin/sh\\nPYTHONPATH=%s exec "{sys.executable}" -m jaxgpt "$@"\\n' "$root" > "$venv/bin/jaxgpt"
        chmod +x "$venv/bin/jaxgpt" ;;
    esac ;;
esac
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "world")
    laptop = tmp_path / "bin"
    laptop.mkdir()
    for file, text in ((laptop / "gcloud", _GCLOUD), (made.folder / "bin" / "uv", _UV)):
        file.write_text(text)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{laptop}:{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_WORLD", str(made.folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("JAXGPT_SETTINGS", str(tmp_path / "settings.env"))
    monkeypatch.setattr(hosts, "_KEY", Path(__file__))  # as if gcloud had made its key before
    (tmp_path / "settings.env").write_text("ZONE=us-central1-a\nPROJECT=my-project\nTYPE=v3-32\nMAX_HOURS=24\n")
    yield made
    made.close()


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings' file, still empty; the real gcloud finds neither an account nor a project of this machine."""
    file = tmp_path / "settings.env"
    file.touch()
    monkeypatch.setenv("JAXGPT_SETTINGS", str(file))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))
    for name in ("ACCOUNT", "PROJECT"):
        monkeypatch.delenv(f"CLOUDSDK_CORE_{name}", raising=False)
    return file


# In place of a training: does what its host's file `act` says, by default what a long one does.
_ACTOR = """#!/bin/sh
[ "$1" = --version ] && echo "jaxgpt 0.1.0" && exit
trap 'kill $sleeping; echo saved; exit 143' TERM
echo "$*" > "$HOME/arguments"
env > "$HOME/environment"
[ -f "$HOME/act" ] && . "$HOME/act"
echo "host 0 of 4: here"
printf '\\rmine:  12%%|#    | 12/100 [00:05<00:20,  4.1step/s, loss=3.1]' >&2
for _ in $(seq 600); do
    [ -f "$HOME/end" ] && code=$(cat "$HOME/end") && rm "$HOME/end" && exit "$code"
    sleep 0.1 & sleeping=$!
    wait $sleeping
done
"""


@pytest.fixture
def actors(world: World) -> World:
    """The world with hosts whose jaxgpt only acts."""
    uv = world.folder / "bin" / "uv"
    actor = world.folder / "actor"
    actor.write_text(_ACTOR)
    actor.chmod(0o755)
    uv.write_text(
        f'#!/bin/sh\ncase "$1 $*" in\nvenv*) for venv; do :; done; mkdir -p "$venv/bin"\n'
        f'cp "{actor}" "$venv/bin/jaxgpt"; ln -sf "{sys.executable}" "$venv/bin/python" ;;\nesac\n'
    )
    return world


@pytest.fixture
def watched(
    actors: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs cloud/tpu watch on two hosts; events: what happens in its pauses, one after the other.

    Its exit code, and what it says.
    """
    monkeypatch.setattr(tpu_command, "check_options", lambda *arguments: None)
    monkeypatch.setattr(watch, "_GRACE", 0.0)
    monkeypatch.setenv("JAXGPT_BUCKET", "gs://mine")
    monkeypatch.setenv("JAXGPT_PURCHASE", "spot")
    monkeypatch.setenv("JAXGPT_TYPE", "v4-16")
    sleep = time.sleep

    def run(*arguments: str, events: list[Callable[[], object]]) -> tuple[int, str]:
        rest = list(events)

        def pause(seconds: float) -> None:
            if seconds < 7:
                sleep(seconds)
            elif rest:
                rest.pop(0)()
            else:
                raise AssertionError(f"the watch did not end:\n{capsys.readouterr().out}")

        monkeypatch.setattr(watch.time, "sleep", pause)
        code = tpu_command.main(["watch", "--every", "7", *arguments])
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def ready(actors: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """A slice of four hosts that is set up; options are not checked, which takes a second."""
    monkeypatch.setattr(tpu_command, "check_options", lambda *arguments: None)
    monkeypatch.setenv("JAXGPT_BUCKET", "gs://mine")
    assert tpu_command.main(["create"]) == tpu_command.main(["setup"]) == 0
    return actors
