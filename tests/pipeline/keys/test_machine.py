"""How many cores there are, in made-up trees of control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.engines import cpu
from attar.pipeline.keys import machine, memory

ALLOWED = 64
V1 = "/sys/fs/cgroup/cpu,cpuacct"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(ALLOWED)))


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """What the kernel shows a process whose /proc/self/cgroup says ``cgroup``."""
    for name, content in {"/proc/self/cgroup": cgroup, **files}.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    return root


def v1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{group}/cpu.cfs_quota_us": str(quota), f"{group}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        pytest.param("0::/", {}, ALLOWED, id="no limit"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "max 100000"}, ALLOWED, id="a limit that is none"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "200000 100000"}, 2, id="a container's own root"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "290000 100000"}, 2, id="a part of a core is none"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "5000 10000"}, 1, id="less than one is one"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "9900000 100000"}, ALLOWED, id="more than there are"),
        pytest.param("0::/a/b", {"/sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3, id="its own group"),
        pytest.param(
            "0::/a/b",
            {"/sys/fs/cgroup/a/b/cpu.max": "800000 100000", "/sys/fs/cgroup/a/cpu.max": "400000 100000"},
            4,
            id="one above it is tighter",
        ),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "max"}, ALLOWED, id="a single word, no limit"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "300000"}, 3, id="a quota of the default period"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": ""}, ALLOWED, id="nothing"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "0 100000"}, ALLOWED, id="no time at all is no limit: it runs"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "200000 0"}, ALLOWED, id="no period"),
        pytest.param("0::/", {"/sys/fs/cgroup/cpu.max": "200000 100000 burst 0"}, 2, id="more words than today's"),
        pytest.param("1:cpu:/", {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000"}, 2, id="version 1, a quota alone"),
        pytest.param("nonsense\n\n0::/", {"/sys/fs/cgroup/cpu.max": "200000 100000"}, 2, id="lines of no format"),
        pytest.param("0::/a:b", {"/sys/fs/cgroup/a:b/cpu.max": "200000 100000"}, 2, id="a colon in the name"),
        pytest.param("0::/a", {"/sys/fs/cgroup/b/cpu.max": "100000 100000"}, ALLOWED, id="another group"),
        pytest.param("0::/../a", {"/sys/fs/cgroup/cpu.max": "500000 100000"}, 5, id="a group outside of what is seen"),
        pytest.param("4:cpu,cpuacct:/\n0::/", v1(V1, -1), ALLOWED, id="version 1 without a limit"),
        pytest.param("4:cpu,cpuacct:/a\n0::/", v1(f"{V1}/a", 250_000, 50_000), 5, id="version 1"),
        pytest.param("4:cpu,cpuacct:/a/b", v1(f"{V1}/a/b", -1) | v1(f"{V1}/a", 700_000), 7, id="version 1, above it"),
        pytest.param("1:cpu:/docker/0a1b", v1("/sys/fs/cgroup/cpu", 150_000), 1, id="version 1, a container's own root"),
        pytest.param("4:cpuacct,cpu:/a", v1("/sys/fs/cgroup/cpu/a", 350_000), 3, id="version 1, listed otherwise than mounted"),
        pytest.param("3:cpuset:/a\n1:name=cpu:/a", v1("/sys/fs/cgroup/cpuset/a", 100_000), ALLOWED, id="another controller"),
    ],
)
def test_a_quota_bounds_the_cores(tmp_path: Path, cgroup: str, files: dict[str, str], cores: int) -> None:
    assert machine.count_cores(tree(tmp_path, cgroup, files)) == cores


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert machine.count_cores(tmp_path) == ALLOWED


@given(quotas=st.lists(st.integers(1_000, 10_000_000), min_size=1, max_size=4))
def test_the_tightest_wins(tmp_path_factory: pytest.TempPathFactory, quotas: list[int]) -> None:
    groups = ["/".join("abcd"[:depth]) for depth in range(len(quotas))]
    files = {f"/sys/fs/cgroup/{group}/cpu.max": f"{quota} 100000" for group, quota in zip(groups, quotas, strict=True)}
    root = tree(tmp_path_factory.mktemp("root"), f"0::/{groups[-1]}", files)
    assert machine.count_cores(root) == max(1, min(ALLOWED, min(quotas) // 100_000))


TEXT = st.text() | st.lists(st.sampled_from(["max", "-1", "0", "100000", "1e5", "9" * 5000]), max_size=3).map(" ".join)


@given(cgroup=st.text() | st.just("0::/") | st.just("1:cpu:/"), v2=TEXT, quota=TEXT, period=TEXT)
def test_whatever_stands_there_some_cores_can_be_used(
    tmp_path_factory: pytest.TempPathFactory, cgroup: str, v2: str, quota: str, period: str
) -> None:
    files = {"cpu.max": v2, "cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": period}
    root = tmp_path_factory.mktemp("root")
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("utf-16" if "\x80" in text else "utf-8", "surrogatepass"))
    assert 1 <= machine.count_cores(root) <= ALLOWED


def test_a_file_that_may_not_be_read_limits_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", {})
    (root / "sys/fs/cgroup/cpu.max").mkdir(parents=True)  # root may read any file, but no folder
    assert machine.count_cores(root) == ALLOWED


def test_engines_and_keys_count_the_same_cores() -> None:
    machine.describe_machine.cache_clear()
    assert machine.describe_machine()["cores"] == cpu.describe_machine()["cores"] == machine.count_cores() <= ALLOWED
    machine.describe_machine.cache_clear()


@pytest.mark.parametrize("line", ["0", "", "nonsense", "0:"])
def test_a_cgroup_file_that_is_damaged_limits_no_memory(tmp_path: Path, line: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{line}\n")
    assert memory.read_memory_limit(tmp_path) == memory.read_memory_limit(tmp_path / "nothing")


class Management:
    """NVML of a machine with two GPUs."""

    def nvmlInit_v2(self) -> int:  # noqa: N802  # the vendor's name, as all below
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: Any, device: Any) -> int:  # noqa: N802
        device._obj.value = number.value + 1
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, length: Any) -> int:  # noqa: N802
        text.value = [b"NVIDIA L4", b"NVIDIA GeForce RTX 5090"][device.value - 1]
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, length: Any) -> int:  # noqa: N802
        text.value = b"590.44.01"
        return 0


@pytest.fixture
def nvml() -> Iterator[None]:
    machine.ask_management_library.cache_clear()
    yield
    machine.ask_management_library.cache_clear()


@pytest.mark.usefixtures("nvml")
def test_gpus_are_found_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under WSL2, which has the driver's libraries and no folder of its kernel module."""
    monkeypatch.setattr(machine, "load_management_library", Management)
    assert machine.ask_management_library() == (("NVIDIA L4", "NVIDIA GeForce RTX 5090"), "590.44.01")


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("failing", ["nvmlInit_v2", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_does_not_answer_has_no_gpus(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load_management_library", Management)
    monkeypatch.setattr(Management, failing, lambda *given: 9)
    assert machine.ask_management_library() == ((), "")
