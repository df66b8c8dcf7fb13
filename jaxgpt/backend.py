"""What has to be settled before JAX is imported: XLA's flags, and the size of the pages of memory."""

import importlib.util
import os
import pkgutil
import sys
from typing import Literal

from jaxgpt.checks import require

Platform = Literal["cpu", "gpu", "tpu"]
# With several GPUs, gradients travel while the backward pass goes on. Flags that changed nothing are in performance.md.
_PRESETS: dict[Platform, tuple[str, ...]] = {
    "cpu": (),
    "gpu": ("--xla_gpu_enable_latency_hiding_scheduler=true",),
    "tpu": (),
}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_TPU_FLAG = "--xla_tpu_"  # the TPU's own compiler reads these from a variable of its own


def likely_platform() -> Platform:
    """Where JAX will compute, as far as can be told without asking it: as JAX_PLATFORMS says, or as what is installed.

    JAX falls back to the CPU where there is software for an accelerator and none to be found.
    """
    asked = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if asked:
        return "cpu" if asked == "cpu" else "tpu" if asked == "tpu" else "gpu"
    if importlib.util.find_spec("libtpu"):
        return "tpu"
    plugins = importlib.util.find_spec("jax_plugins")
    found = pkgutil.iter_modules(plugins.submodule_search_locations) if plugins else ()
    return "gpu" if any(plugin.name.startswith("xla_") for plugin in found) else "cpu"


def check_flags(flags: str) -> None:
    """UserError where train.xla_flags is neither auto nor none nor a list of flags."""
    wrong = [] if flags in ("auto", "none") else [flag for flag in flags.split() if not flag.startswith("--xla_")]
    require(
        bool(flags.strip()) and not wrong,
        f"train.xla_flags is {flags!r}; it must be auto, none, or flags like "
        f"'--xla_gpu_enable_latency_hiding_scheduler=true'{f', and {wrong[0]} is none' if wrong else ''}",
    )


def set_flags(flags: str) -> None:
    """train.xla_flags into the environment; flags that are there already stay as they are."""
    wanted = {"auto": _PRESETS[likely_platform()], "none": ()}.get(flags, tuple(flags.split()))
    for variable, of_tpu in (("XLA_FLAGS", False), ("LIBTPU_INIT_ARGS", True)):
        own = os.environ.get(variable, "").split()
        names = {flag.partition("=")[0] for flag in own}
        new = [flag for flag in wanted if flag.startswith(_TPU_FLAG) == of_tpu and flag.partition("=")[0] not in names]
        if new:
            os.environ[variable] = " ".join([*own, *new])


def with_huge_pages() -> None:
    """Starts this process again with HUGE_PAGES, where JAX will compute on a CPU and the variable is not set yet.

    A step's arrays are allocated anew each time, and Linux clears each page that it gives: with pages of 4 kB that is
    an eighth of the time of a step of GPT-2 small. glibc reads the variable when a process starts, and only then.
    """
    if sys.platform == "linux" and likely_platform() == "cpu" and not os.environ.keys() & HUGE_PAGES.keys():
        os.environ.update(HUGE_PAGES)
        os.execv(sys.executable, sys.orig_argv)
