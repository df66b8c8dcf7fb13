"""A made-up /proc and /sys: containers and jobs, in both versions of control groups."""

from pathlib import Path

import pytest

from jaxgpt.doctor.cgroup import memory_limits
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.hardware import Hardware
from jaxgpt.doctor.machine import check_memory

GB = 10**9


def process(root: Path, *lines: str) -> None:
    """In these groups, on a machine with 128 GB of which 100 are free."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    (root / "proc/meminfo").write_text(f"MemTotal: {125_000_000} kB\nMemAvailable: {100 * GB // 1024} kB\n")


def group(folder: Path, limit: int | str, used: int, cache: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit_file, used_file = ("memory.max", "memory.current")
    own, whole = "inactive_file", "inactive_file"
    if version == 1:
        limit_file, used_file, whole = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        (folder / "memory.stat").write_text(f"cache 3\n{own} 7\n{whole} {cache}\n")
    else:
        (folder / "memory.stat").write_text(f"anon 3\nfile 5\n{own} {cache}\nactive_file 9\n")
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")


def said(root: Path) -> str:
    (line,) = check_memory(None, Hardware(), root)
    return line.said


def test_what_was_read_from_files_is_free(tmp_path: Path) -> None:
    process(tmp_path, "0::/")
    group(tmp_path / "sys/fs/cgroup", 64 * GB, 63_900_000_000, 60 * GB)
    assert list(check_memory(None, Hardware(), tmp_path)) == [Line("ok", "memory", "60.1 GB of 64.0 GB free")]


def test_a_job_of_a_cluster(tmp_path: Path) -> None:
    """Slurm limits the job, and its step no further; a group above it leaves more, or less to all of its jobs."""
    process(tmp_path, "0::/system.slice/slurmstepd.scope/job_31/step_0/task_0")
    scope = tmp_path / "sys/fs/cgroup/system.slice/slurmstepd.scope"
    group(scope / "job_31/step_0/task_0", "max", 2 * GB)
    group(scope / "job_31", 16 * GB, 2 * GB)
    assert said(tmp_path) == "14.0 GB of 16.0 GB free"
    group(scope, 100 * GB, 90 * GB)
    assert said(tmp_path) == "10.0 GB of 16.0 GB free"
    group(scope / "job_32", GB, GB)  # another's
    assert said(tmp_path) == "10.0 GB of 16.0 GB free"


def test_the_first_version(tmp_path: Path) -> None:
    process(tmp_path, "9:name=systemd:/", "5:cpu,cpuacct:/", "4:memory:/slurm/uid_7/job_31", "0::/")
    memory = tmp_path / "sys/fs/cgroup/memory"
    group(memory, 9223372036854771712, 50 * GB, version=1)
    group(memory / "slurm/uid_7/job_31", 16 * GB, 12 * GB, 5 * GB, version=1)
    assert said(tmp_path) == "9.0 GB of 16.0 GB free"


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_that_sees_its_group_as_the_root(version: int, tmp_path: Path) -> None:
    process(tmp_path, "4:memory,hugetlb:/docker/0a1b" if version == 1 else "0::/../../docker/0a1b")
    top = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    group(top, 4 * GB, 1_500_000_000, version=version)
    assert said(tmp_path) == "2.5 GB of 4.0 GB free"


def test_more_in_use_than_the_limit_is_none_free(tmp_path: Path) -> None:
    process(tmp_path, "0::/")
    group(tmp_path / "sys/fs/cgroup", GB, GB + 5)
    assert memory_limits(tmp_path) == [(GB, 0)]


def test_a_machine_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == []
    process(tmp_path, "0::/user.slice")
    assert memory_limits(tmp_path) == []
    assert said(tmp_path) == "100.0 GB of 128.0 GB free"
