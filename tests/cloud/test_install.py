"""cloud/install.sh: what it runs, and that nothing half-made is ever taken for an environment."""

import fcntl
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from uv_stand_in import Uv, clone

ROOT = Path(__file__).parents[2]
# As uv and pip said it on a full disk, without a network, and for a package that there is not.
FULL = "cause: failed to copy file from /a to /b: No space left on device (os error 28)"
NO_NETWORK = "cause: error sending request for url (https://pypi.org/simple/jax/)\n  cause: dns error"
NO_NETWORK_PIP = (
    "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError'\n"
    "ERROR: No matching distribution found for uv==0"
)
NO_PACKAGE = "cause: Because there is no version of jax==9 and you require jax==9, your requirements are unsatisfiable."
# What a small Linux has, and is used.
_PROGRAMS = [
    "bash",
    "basename",
    "cat",
    "cp",
    "dirname",
    "env",
    "find",
    "flock",
    "install",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
]
_PROGRAMS += ["sha256sum", "tail", "touch"]


class Machine:
    """With a clone, and uv on PATH."""

    def __init__(self, folder: Path):
        self.root, self.venv, self.uv = (
            clone(folder / "clone"),
            folder / "venv",
            Uv(folder / "uv", "#!/bin/sh\necho ok\n"),
        )
        self.environment = {**os.environ, "PATH": f"{folder / 'uv' / 'bin'}:{os.environ['PATH']}"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "cloud" / "install.sh"), *(arguments or ("cpu", str(self.venv)))],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def install(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        with self.start(*arguments) as process:
            out, error = process.communicate(timeout=30)
        return process.returncode, out, error

    @property
    def is_finished(self) -> bool:
        return (self.venv / "installed-from").is_file()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("kind", "file"),
    [("cpu", "requirements-train.txt"), ("cuda", "requirements-gpu.txt"), ("tpu", "requirements-tpu.txt")],
)
def test_what_is_installed(machine: Machine, kind: str, file: str) -> None:
    code, out, _ = machine.install(kind, str(machine.venv))
    assert code == 0
    assert out.splitlines() == [
        f"making {machine.venv}",
        f"installing {file}",
        "installing jaxgpt",
        f"{machine.venv} has ok for {kind}",
    ]
    python = f"--python {machine.venv}/bin/python"
    assert machine.uv.calls() == [
        f"venv --no-project --allow-existing --python >=3.11,<3.13 {machine.venv}",
        f"pip install {python} -r {machine.root}/{file}",
        f"pip install {python} --no-deps --no-build-isolation -e {machine.root}",
    ]


def test_a_finished_one_is_left_as_it_is_until_a_pin_changes(machine: Machine) -> None:
    assert machine.install()[0] == 0
    begun = time.monotonic()
    assert machine.install() == (0, f"{machine.venv} is up to date\n", "")
    assert time.monotonic() - begun < 2
    assert len(machine.uv.calls()) == 3
    (machine.venv / "mine").touch()
    constraints = machine.root / "constraints.txt"
    text = constraints.read_text()
    constraints.unlink()
    constraints.write_text(text.replace("jaxlib==0.", "jaxlib==9."))
    assert machine.install()[0] == 0
    assert len(machine.uv.calls()) == 6
    assert not (machine.venv / "mine").exists()
    assert machine.install("tpu", str(machine.venv))[0] == 0  # another kind is another environment
    assert len(machine.uv.calls()) == 9


def test_one_that_was_killed_is_made_anew(machine: Machine) -> None:
    machine.uv.wait()
    process = machine.start()
    while len(machine.uv.calls()) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (machine.venv / "pyvenv.cfg").is_file()
    assert not machine.is_finished
    (machine.venv / "half").touch()
    machine.uv.go()
    assert machine.install()[0] == 0
    assert machine.is_finished
    assert not (machine.venv / "half").exists()


def test_of_two_at_once_one_waits(machine: Machine) -> None:
    machine.uv.wait()
    first = machine.start()
    while len(machine.uv.calls()) < 2:
        time.sleep(0.02)
    second = machine.start()
    assert second.stdout is not None
    assert second.stdout.readline() == f"{machine.venv} is being installed by another process; waiting for it\n"
    machine.uv.go()
    assert first.communicate(timeout=30)[0].endswith("has ok for cpu\n")
    assert second.communicate(timeout=30)[0] == f"{machine.venv} is up to date\n"
    assert len(machine.uv.calls()) == 3


def test_one_in_use_stays_until_it_is_not(machine: Machine) -> None:
    assert machine.install()[0] == 0
    with Path(f"{machine.venv}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a training does
        assert machine.install() == (0, f"{machine.venv} is up to date\n", "")
        (machine.venv / "used").touch()
        other = machine.start("tpu", str(machine.venv))
        assert other.stdout is not None
        assert other.stdout.readline().startswith(f"{machine.venv} has other packages and is in use; waiting until")
        assert (machine.venv / "used").exists()
        assert machine.is_finished
    assert other.communicate(timeout=30)[0].endswith("has ok for tpu\n")
    assert not (machine.venv / "used").exists()


def test_nothing_beside_it_is_removed(machine: Machine) -> None:
    """Not even what is named like something of ours."""
    beside = machine.venv.with_name(f"{machine.venv.name}.old")
    beside.mkdir()
    (beside / "thesis.tex").touch()
    assert machine.install()[0] == 0
    assert machine.install("tpu", str(machine.venv))[0] == 0
    assert (beside / "thesis.tex").is_file()


def test_one_that_was_killed_while_the_old_one_went_is_made_anew(machine: Machine) -> None:
    assert machine.install()[0] == 0
    (machine.venv / "unfinished").touch()
    (machine.venv / "installed-from").unlink()
    assert machine.install()[0] == 0
    assert machine.is_finished
    assert not (machine.venv / "unfinished").exists()


def test_git_sees_no_environment() -> None:
    names = [".venv/bin/x", ".venv-cuda/bin/x", ".venv-cuda.lock", ".venv-train/x"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is no clone")
    assert done.stdout.split() == names


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (FULL, "the disk of VENV is full; cuda needs 8 GB there"),
        (NO_NETWORK, "could not fetch what it needs (cause: dns error); check its network"),
        (NO_NETWORK_PIP, "could not fetch what it needs (ERROR: No matching distribution found for uv==0); check"),
        (NO_PACKAGE, f"pip install did not work ({NO_PACKAGE}); mend that"),
    ],
)
def test_what_fails_is_said_in_the_last_line(machine: Machine, said: str, told: str) -> None:
    machine.uv.fail(said)
    code, _, error = machine.install()
    assert code == 1
    *shown, last = error.splitlines()
    assert shown == said.splitlines()
    assert last.startswith("error: ")
    assert told.replace("VENV", str(machine.venv)) in last
    assert not machine.is_finished
    assert machine.install()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cpu"], "1 arguments were given; two are needed"),
        (["gpu", "VENV"], "gpu is no kind of machine; give cpu, cuda or tpu"),
        (["cpu", ""], "VENV is empty; give a folder, as in cloud/install.sh cpu .venv-train"),
        (["cpu", "/dev/null/x/venv"], "/dev/null/x/venv can't be made (cannot create directory '/dev/null'"),
        (["cpu", "/proc/self/venv"], "/proc/self/venv can't be made, as you may not write to /proc/self"),
    ],
)
def test_wrong_arguments(machine: Machine, arguments: list[str], told: str) -> None:
    machine.environment["LC_ALL"] = "C"
    code, _, error = machine.install(*arguments)
    assert (code, len(error.splitlines())) == (2, 1)
    assert error.startswith("error: ")
    assert told in error.replace("‘", "'")
    assert machine.uv.calls() == []


def test_a_lock_that_can_not_be_opened(machine: Machine) -> None:
    Path(f"{machine.venv}.lock").mkdir()
    expected = f"error: {machine.venv}.lock can't be opened; give another VENV, or mend its rights\n"
    assert machine.install() == (2, "", expected)


def test_a_folder_of_somebody_elses_stays(machine: Machine) -> None:
    machine.venv.mkdir()
    (machine.venv / "pyvenv.cfg").write_text("mine")
    code, _, error = machine.install()
    assert code == 2
    assert "is there, but not made by cloud/install.sh" in error
    assert (machine.venv / "pyvenv.cfg").read_text() == "mine"
    assert machine.uv.calls() == []


def test_uv_is_fetched_where_it_is_missing(machine: Machine, tmp_path: Path) -> None:
    """As on TPU hosts, whose Python is older than ours needs: into a folder of its own, at the pinned version."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in _PROGRAMS:
        (programs / name).symlink_to(f"/usr/bin/{name}")
    python = programs / "python3"
    python.write_text(
        f'#!/bin/bash\necho "$*" > {tmp_path}/asked\nmkdir -p "$6/bin"\ncp {machine.uv.folder}/bin/uv "$6/bin/"\n'
    )
    python.chmod(0o755)
    machine.environment["PATH"] = str(programs)
    code, out, error = machine.install()
    assert (code, error) == (0, "")
    version = re.search(r"uv_version=(\S+)", (machine.root / "cloud" / "install.sh").read_text())
    assert version is not None
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:5] == ["-m", "pip", "--disable-pip-version-check", "install", "--target"]
    assert asked[6] == f"uv=={version[1]}"
    assert out.splitlines()[0] == f"fetching uv {version[1]}"
    assert not Path(asked[5]).exists()  # it is not needed any more
