"""What a container leaves its processes, from trees of files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavatube.container import container_bytes

GIB = 1 << 30
NO_LIMIT_V1 = 9223372036854771712

# As a kernel 6.1 lists them, zeros left out.
STAT_V2 = """anon {anon}
file {file}
kernel 83976192
kernel_stack 1130496
pagetables 21377024
percpu 12480
sock 12288
shmem {shmem}
file_mapped {mapped}
file_dirty 270336
inactive_anon {shmem}
active_anon {anon}
inactive_file {inactive}
active_file {active}
slab_reclaimable 30425088
slab 57135104
workingset_refault_file 2416
pgfault 74213951
"""
# As a kernel 5.10 lists them: of the group alone, and of all below it, too.
STAT_V1 = """cache 9535488
rss 5050368
shmem 9166848
mapped_file 7090176
inactive_file 16384
active_file 352256
hierarchical_memory_limit 9223372036854771712
total_cache {file}
total_rss {anon}
total_shmem {shmem}
total_mapped_file {mapped}
total_inactive_anon {shmem}
total_active_anon {anon}
total_inactive_file {inactive}
total_active_file {active}
total_unevictable 12685312
"""


def write_v2(folder: Path, limit: int | str, anon: int = 0, active: int = 0, inactive: int = 0, **more: int) -> None:
    _write(folder, {"max": limit, "current": None}, STAT_V2, anon, active, inactive, **more)


def write_v1(folder: Path, limit: int, anon: int = 0, active: int = 0, inactive: int = 0, **more: int) -> None:
    _write(folder, {"limit_in_bytes": limit, "usage_in_bytes": None}, STAT_V1, anon, active, inactive, **more)


def _write(
    folder: Path,
    files: dict[str, int | str | None],
    stat: str,
    anon: int,
    active: int,
    inactive: int,
    shmem: int = 0,
    mapped: int = 0,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = active + inactive + shmem
    for name, value in files.items():
        (folder / f"memory.{name}").write_text(f"{anon + file if value is None else value}\n")
    told = stat.format(anon=anon, file=file, shmem=shmem, mapped=mapped, inactive=inactive, active=active)
    (folder / "memory.stat").write_text(told)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Of a container that sees its group as the root, of version 2."""
    path = tmp_path / "own"
    path.write_text("0::/\n")
    return path


def test_a_warm_model_in_the_page_cache_is_not_in_the_way(tmp_path: Path, own: Path) -> None:
    """14 GiB of weights in panels, and the files that they were made of, still cached."""
    write_v2(tmp_path, 28 * GIB, anon=14 * GIB, active=6 * GIB, inactive=8 * GIB - 1)
    assert container_bytes(tmp_path, own) == 14 * GIB


def test_what_is_shared_in_memory_and_what_is_mapped_is_used(tmp_path: Path, own: Path) -> None:
    write_v2(tmp_path, 10 * GIB, anon=2 * GIB, active=3 * GIB, shmem=1 * GIB, mapped=2 * GIB)
    assert container_bytes(tmp_path, own) == 5 * GIB
    write_v2(tmp_path, 10 * GIB, anon=2 * GIB, active=3 * GIB, shmem=1 * GIB, mapped=4 * GIB)
    assert container_bytes(tmp_path, own) == 4 * GIB, "what is mapped may be shared memory"


def test_no_limit(tmp_path: Path, own: Path) -> None:
    assert container_bytes(tmp_path, own) is None, "no control groups"
    assert container_bytes(tmp_path, tmp_path / "missing") is None
    (tmp_path / "cgroup.procs").touch()  # the machine's own group of version 2 has no files of memory
    assert container_bytes(tmp_path, own) is None
    write_v2(tmp_path, "max", anon=GIB)
    assert container_bytes(tmp_path, own) is None


def test_more_than_the_limit_leaves_nothing(tmp_path: Path, own: Path) -> None:
    write_v2(tmp_path, GIB, anon=2 * GIB)
    assert container_bytes(tmp_path, own) == 0


@pytest.mark.parametrize(("inner", "outer", "left"), [(4, 20, 2), (4, 11, 1), ("max", 12, 2)])
def test_each_group_is_within_those_above_it(
    tmp_path: Path, own: Path, inner: int | str, outer: int, left: int
) -> None:
    """A service under systemd, whose slice has a limit, too, and others in it."""
    own.write_text("0::/lavatube.slice/lavatube.service\n")
    write_v2(tmp_path / "lavatube.slice", outer * GIB, anon=10 * GIB, inactive=GIB)
    limit = inner if isinstance(inner, str) else inner * GIB
    write_v2(tmp_path / "lavatube.slice" / "lavatube.service", limit, anon=2 * GIB, active=GIB)
    write_v2(tmp_path / "lavatube.slice" / "other.service", GIB, anon=GIB)
    assert container_bytes(tmp_path, own) == left * GIB


V1 = """12:pids:/docker/0123abcd
8:cpu,cpuacct:/docker/0123abcd
4:memory:/docker/0123abcd
1:name=systemd:/docker/0123abcd
0::/system.slice/containerd.service
"""


def test_version_1_nested(tmp_path: Path, own: Path) -> None:
    own.write_text(V1)
    memory = tmp_path / "memory"
    write_v1(memory, NO_LIMIT_V1, anon=90 * GIB)
    write_v1(memory / "docker", NO_LIMIT_V1, anon=80 * GIB)
    write_v1(memory / "docker" / "0123abcd", 28 * GIB, anon=14 * GIB, active=6 * GIB, inactive=7 * GIB)
    assert container_bytes(tmp_path, own) == 14 * GIB
    write_v1(memory / "docker", 81 * GIB, anon=80 * GIB, shmem=GIB // 2)
    assert container_bytes(tmp_path, own) == GIB // 2


def test_version_1_in_a_container_that_sees_the_hosts_path(tmp_path: Path, own: Path) -> None:
    """What is mounted there is the container's own group, so that its path leads nowhere."""
    own.write_text(V1)
    write_v1(tmp_path / "memory", 4 * GIB, anon=GIB, inactive=2 * GIB, mapped=GIB)
    assert container_bytes(tmp_path, own) == 2 * GIB


def test_version_1_without_any_limit_is_more_than_any_machine_has(tmp_path: Path, own: Path) -> None:
    own.write_text(V1)
    write_v1(tmp_path / "memory", NO_LIMIT_V1, anon=GIB)
    left = container_bytes(tmp_path, own)
    assert left is not None
    assert left > 1 << 60


def test_the_groups_of_this_machine_can_be_read() -> None:
    left = container_bytes()
    assert left is None or left > 0
