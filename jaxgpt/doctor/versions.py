"""Do the packages fit each other, the project's requirements, and the accelerators of this machine?"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from jaxgpt.doctor.check import Level, Line
from jaxgpt.doctor.hardware import Hardware

_TESTED = ((3, 11), (3, 12))
_TRAINING = ("jax", "flax", "optax", "orbax-checkpoint")  # whose requirements must hold, beside our own
_SHOWN = 3  # problems in a line
_REQUIREMENTS = Path(__file__).parents[2] / "requirements-train.txt"  # of a clone; an installed package has none
_PIN = re.compile(r"^([\w.-]+)(?:\[[^]]*])?==([\w.]+)", re.MULTILINE)
_ABSENT = "(not installed)"
_INSTALL = "-r requirements-train.txt"
_STAMP = "installed-from"  # of an environment that cloud/install.sh made, which has no pip
# CUDA's major version -> that of the oldest driver for it; source: docs.nvidia.com/cuda/cuda-toolkit-release-notes
_OLDEST_DRIVER = {12: 525, 13: 580}


def check_versions(hardware: Hardware) -> Iterator[Line]:
    """Looks into the installed packages' metadata and imports none of them."""
    yield _python()
    yield _jaxgpt(hardware)
    yield _jax(hardware)
    yield _packages(hardware)
    yield from _tpu(hardware)
    yield from _cuda(hardware)


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def way_to_install(wanted: str, hardware: Hardware) -> str:
    """The command by which this environment gets packages. wanted: of pip's arguments, what to install.

    What cloud/install.sh made, it makes anew: its stamp must differ, and be there, or the folder is not known again.
    """
    if not _is_of_install_sh():
        return f"python -m pip install {wanted}"
    venv = Path(sys.prefix)
    stamp = venv / _STAMP
    script = _REQUIREMENTS.parent / "cloud" / "install.sh"
    make = f"bash {shlex.quote(str(script))} {_kind(hardware)} {shlex.quote(str(venv))}"
    if not os.access(stamp, os.W_OK):
        return f"as the owner of {venv}: echo > {shlex.quote(str(stamp))} && {make}; in an image: cloud/gpu build"
    return f"echo > {shlex.quote(str(stamp))} && {make}"


def _is_of_install_sh() -> bool:
    return (Path(sys.prefix) / _STAMP).is_file()


def _kind(hardware: Hardware) -> str:
    """Of machine, for cloud/install.sh; without an accelerator, as a cluster's login node, by what is installed."""
    if hardware.tpu_chips or hardware.tpu_type:
        return "tpu"
    if hardware.gpus or hardware.gpu_trouble or any(installed(f"jax-cuda{major}-plugin") for major in _OLDEST_DRIVER):
        return "cuda"
    return "tpu" if installed("libtpu") else "cpu"


def _jax_with(extra: str) -> str:
    """What to install for an accelerator: with the jax that is there, or else with the pinned one."""
    version = installed("jax") or _pins().get("jax")
    return f'"jax[{extra}]=={version}"' if version else f'"jax[{extra}]"'


def _pins() -> dict[str, str]:
    """Package -> version in requirements-train.txt; none where that file is not."""
    return dict(_PIN.findall(_REQUIREMENTS.read_text(encoding="utf-8"))) if _REQUIREMENTS.is_file() else {}


def _python() -> Line:
    said = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in _TESTED:
        return Line("ok", "python", said)
    return Line("warn", "python", f"{said}; jaxgpt is tested with 3.11 and 3.12: make an environment with one of them")


def _jaxgpt(hardware: Hardware) -> Line:
    version, folder = installed("jaxgpt"), Path(__file__).parents[1]
    if version is None:
        said = f"{folder} is used without being installed, so its requirements are not checked"
        return Line("warn", "jaxgpt", f"{said}; {way_to_install('-e .', hardware)}")
    return Line("ok", "jaxgpt", f"{version} in {folder}")


def _jax(hardware: Hardware) -> Line:
    jax, jaxlib = installed("jax"), installed("jaxlib")
    if jax is None or jaxlib is None:
        missing = "jax" if jax is None else "jaxlib"
        return Line("fail", "jax", f"{missing} is not installed; {way_to_install(_INSTALL, hardware)}")
    if jax != jaxlib:
        said = f"{jax} with jaxlib {jaxlib}, which belongs to another"
        way_out = way_to_install(f"jaxlib=={jax}", hardware)
        return Line("fail" if _unmet("jax") else "warn", "jax", f"{said}; {way_out}")
    return Line("ok", "jax", f"{jax} with jaxlib {jaxlib}")


def _packages(hardware: Hardware) -> Line:
    """Of the training: what they want of each other, and what requirements-train.txt pins."""
    name, way_out = "packages", way_to_install(_INSTALL, hardware)
    problems = [problem for package in ("jaxgpt", *_TRAINING) for problem in _unmet(package)]
    if problems:
        return Line("fail", name, f"{_some(problems)}; {way_out}")
    there = {package: installed(package) for package in _TRAINING[1:]}
    said = ", ".join(f"{package} {version}" for package, version in there.items())
    pins = _pins()
    if not pins:
        return Line("ok", name, said)
    differing = [
        f"{package} is {found}, requirements-train.txt pins {pins[package]}"
        for package in _TRAINING
        if package in pins and (found := installed(package)) != pins[package]
    ]
    if differing:
        return Line("warn", name, f"{_some(differing)}, which is what is tested; {way_out}")
    return Line("ok", name, f"{said}, as requirements-train.txt pins them")


def _tpu(hardware: Hardware) -> Iterator[Line]:
    name, libtpu, jax = "libtpu", installed("libtpu"), installed("jax")
    way_out = way_to_install(_jax_with("tpu"), hardware)
    if libtpu is None:
        if hardware.tpu_chips:
            said = f"{hardware} in this machine, but jax is the CPU build (libtpu is not installed); {way_out}"
            yield Line(_unused(), name, said)
        return
    if jax is None:
        return  # which its own line says
    problems = _unmet("jax", "tpu")
    if problems:
        yield Line("fail", name, f"{_some(problems)}; {way_out}")
    else:
        here = "" if hardware.tpu_chips else ", and no TPU is here"
        yield Line("ok", name, f"{libtpu}, which is what jax {jax} wants{here}")


def _cuda(hardware: Hardware) -> Iterator[Line]:
    name, jax = "cuda", installed("jax")
    plugins = {major: found for major in _OLDEST_DRIVER if (found := installed(f"jax-cuda{major}-plugin"))}
    if hardware.gpu_trouble:
        said = f"an NVIDIA GPU is in this machine, but {hardware.gpu_trouble}; install NVIDIA's driver, or start the "
        yield Line(_unused(), "driver", said + "container with --gpus all")
    driver = hardware.gpus[0].driver if hardware.gpus else None
    runs = [major for major, oldest in _OLDEST_DRIVER.items() if driver and _major(driver) >= oldest]
    best = max(runs, default=min(_OLDEST_DRIVER))
    way_out = way_to_install(_jax_with(f"cuda{best}"), hardware)
    if not plugins:
        if hardware.gpus:
            said = f"{hardware} in this machine, but jax is the CPU build (no CUDA plugin is installed); {way_out}"
            yield Line(_unused(), name, said)
        return
    if len(plugins) > 1:
        said = f"the plugins for CUDA {' and '.join(map(str, plugins))} are both installed"
        one = "python -m pip uninstall one of them, with its jax-cuda*-pjrt"
        yield Line("fail", name, f"{said}; {way_out if _is_of_install_sh() else one}")
        return
    (major, plugin), *_ = plugins.items()
    package = f"jax-cuda{major}-plugin"
    # CUDA's libraries may also be the machine's own, so that those of pip are no must; but old ones are in the way.
    libraries = [problem for problem in _unmet(package, "with-cuda") if not problem.endswith(_ABSENT)]
    problems = [*(_unmet("jax", f"cuda{major}-local") if jax else []), *_unmet(package), *libraries]
    if problems:
        problems = list(dict.fromkeys(problems))
        again = way_to_install(f"--upgrade {_jax_with(f'cuda{major}')}", hardware)
        yield Line("fail", name, f"{_some(problems)}; {again}")
    else:
        yield Line("ok", name, f"plugin {plugin} for CUDA {major}{'' if driver else ', and no GPU is here'}")
    if driver and _major(driver) < _OLDEST_DRIVER[major]:
        has_choice = runs and not _is_of_install_sh()  # which has one CUDA alone
        said = f"NVIDIA's driver {driver} is older than the {_OLDEST_DRIVER[major]} that CUDA {major} needs; install a "
        yield Line("fail", "driver", said + (f"newer one, or {way_out}" if has_choice else "newer one"))
    elif driver:
        yield Line("ok", "driver", f"{driver}, new enough for CUDA {major}")


def _unused() -> Level:
    """Of an accelerator that JAX can't use: no fault where it is not to be used."""
    return "warn" if os.environ.get("JAX_PLATFORMS") == "cpu" else "fail"


def _unmet(package: str, extra: str = "") -> list[str]:
    """Requirements of an installed package, those of an extra as well, that do not hold, a phrase each."""
    try:
        texts = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    problems = []
    for wanted in map(Requirement, texts):
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        found = installed(wanted.name)
        if found is None:
            problems.append(f"{package} wants {wanted.name}{wanted.specifier} {_ABSENT}")
        elif not wanted.specifier.contains(found, prereleases=True):
            problems.append(f"{package} wants {wanted.name}{wanted.specifier} (there is {found})")
    return problems


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else 0


def _some(problems: list[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return ", ".join(problems[:_SHOWN]) + more
