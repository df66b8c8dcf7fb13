"""Settings that every test shares: one CPU backend with eight devices, no network, a compile cache, slow tests last."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from bucket_server import Bucket

# Before anything imports jax: tests of one device use jax.devices()[:1].
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests are small and run for milliseconds: most of their time is the compiler's, which need not optimise.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"  # else each process that trains would start twice
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Compiled steps are shared between tests and the processes that they start.
_CACHE = tempfile.mkdtemp(prefix="jaxgpt-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

sys.path.insert(0, str(Path(__file__).parent))  # tests share tiny_run.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """A process that keeps some thousand compiled programs runs out of memory maps, and dies."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


class TinyRun(NamedTuple):
    """Folders of a data set, a run and its export; see tiny_run.py."""

    pages: Path
    run: Path
    hf: Path


def _tiny(folder: Path, dialogue_format: str, vocab_size: int, token_types: bool) -> TinyRun:
    import tiny_run

    pages = tiny_run.make_pages(folder, dialogue_format)
    run = tiny_run.make_run(folder, pages, vocab_size, token_types)
    return TinyRun(pages, run, tiny_run.make_export(folder, run))


@pytest.fixture(scope="session")
def tags_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return _tiny(tmp_path_factory.mktemp("tags"), "tags", 50257, token_types=False)


@pytest.fixture(scope="session")
def sep_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return _tiny(tmp_path_factory.mktemp("sep"), "sep", 50258, token_types=True)


@pytest.fixture(scope="module")
def server() -> Iterator["Bucket"]:
    """A bucket on loopback; see bucket_server.py."""
    from bucket_server import bucket_server

    with bucket_server() as bucket:
        yield bucket
