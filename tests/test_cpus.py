"""How many CPUs a process may use, as the files of control groups say."""

import os
from pathlib import Path

import pytest

from server.cpus import usable_cpus
from server.serve import worker_count
from server.settings import Settings, SettingsError, load


def groups(root: Path, own: str, **files: str) -> float:
    """CPUs with these files under the mount and this list of the process's groups."""
    for name, text in files.items():
        path = root / "mount" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    return usable_cpus(root / "mount", root / "own")


def test_without_a_quota_it_is_where_the_process_may_run(tmp_path: Path):
    cpus = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path, tmp_path / "nothing") == cpus
    assert groups(tmp_path, "0::/a", a__cpu_dot_max="max 100000") == cpus


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"a__b__cpu_dot_max": "50000 100000"}, 0.5),
        ({"a__cpu_dot_max": "60000 100000", "a__b__cpu_dot_max": "max 100000"}, 0.6),
        ({"cpu_dot_max": "25000 100000", "a__b__cpu_dot_max": "50000 100000"}, 0.25),
        # In a container the path is the host's, and the mount has only the container's own group.
        ({"cpu_dot_max": "75000 100000"}, 0.75),
    ],
)
def test_the_smallest_quota_above_the_process_counts(
    tmp_path: Path, files: dict[str, str], cpus: float
):
    assert groups(tmp_path, "0::/a/b\n", **files) == cpus


def test_a_quota_of_version_1_counts_too(tmp_path: Path):
    own = "4:memory:/x\n3:cpu,cpuacct:/x\n"
    files = {"cpu__x__cpu_dot_cfs_quota_us": "30000", "cpu__x__cpu_dot_cfs_period_us": "100000"}
    assert groups(tmp_path, own, **files) == 0.3
    container = {"cpu__cpu_dot_cfs_quota_us": "15000", "cpu__cpu_dot_cfs_period_us": "100000"}
    assert groups(tmp_path / "container", own, **container) == 0.15
    none = {"cpu__x__cpu_dot_cfs_quota_us": "-1", "cpu__x__cpu_dot_cfs_period_us": "100000"}
    assert groups(tmp_path, own, **none) == len(os.sched_getaffinity(0))


def test_auto_is_at_least_one_and_a_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    for cpus, count in ((0.5, 1), (1.9, 1), (2.0, 2), (3.7, 3), (1e6, 256)):
        monkeypatch.setattr("server.serve.usable_cpus", lambda cpus=cpus: cpus)
        assert worker_count("auto") == count
    assert worker_count(5) == 5


def test_several_workers_are_for_linux(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("server.serve.usable_cpus", lambda: 4.0)
    assert (worker_count("auto"), worker_count(1)) == (1, 1)
    with pytest.raises(SettingsError, match="--workers 2 needs Linux"):
        worker_count(2)


def test_the_setting_is_a_number_or_auto(monkeypatch: pytest.MonkeyPatch):
    assert Settings(workers="auto").workers == "auto"
    monkeypatch.setenv("KEELMARK_WORKERS", "3")
    assert load().settings.workers == 3
    for wrong in ("0", "257", "many"):
        with pytest.raises(SettingsError, match="setting workers"):
            load({"workers": wrong})
