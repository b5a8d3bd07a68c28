"""What the machine leaves to this process, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.runtime.machine import find_free_bytes

GB = 1_000_000_000


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def limit_v2(group: str, most: str, used: int, cache: int = 0) -> dict[str, str]:
    top = f"sys/fs/cgroup{group}"
    stat = f"anon 1\ninactive_file {cache}\n"
    return {f"{top}/memory.max": most, f"{top}/memory.current": str(used), f"{top}/memory.stat": stat}


def limit_v1(group: str, most: int, used: int, cache: int = 0) -> dict[str, str]:
    top = f"sys/fs/cgroup/memory{group}"
    stat = f"inactive_file 7\ntotal_inactive_file {cache}\n"
    return {
        f"{top}/memory.limit_in_bytes": str(most),
        f"{top}/memory.usage_in_bytes": str(used),
        f"{top}/memory.stat": stat,
    }


V1 = "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n"
V2 = "0::/user.slice/job\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    {
        "no groups": ({}, 8000000 * 1024),
        "no limit": ({"proc/self/cgroup": V2} | limit_v2("/user.slice/job", "max\n", GB), 8000000 * 1024),
        "version 2": ({"proc/self/cgroup": V2} | limit_v2("/user.slice/job", f"{3 * GB}\n", GB, GB // 2), 5 * GB // 2),
        "a group around it": (
            {"proc/self/cgroup": V2}
            | limit_v2("/user.slice/job", "max", GB)
            | limit_v2("/user.slice", f"{2 * GB}", GB),
            GB,
        ),
        "a container's own": ({"proc/self/cgroup": "0::/../abc\n"} | limit_v2("", f"{2 * GB}", GB), GB),
        "version 1": ({"proc/self/cgroup": V1} | limit_v1("/docker/abc", 4 * GB, 3 * GB, GB), 2 * GB),
        "version 1, a container's own": ({"proc/self/cgroup": V1} | limit_v1("", 4 * GB, 3 * GB), GB),
        "more used than allowed": ({"proc/self/cgroup": V1} | limit_v1("", GB, 2 * GB), 0),
        "nonsense": ({"proc/self/cgroup": "0\n\n4:memory\n0::/a\n"} | limit_v2("/a", "many", 1), 8000000 * 1024),
    }.values(),
)
def test_free_memory_is_what_the_groups_leave(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert find_free_bytes(system(tmp_path, files)) == expected


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert find_free_bytes(tmp_path) is None
    assert find_free_bytes() is not None
