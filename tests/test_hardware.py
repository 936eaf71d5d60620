"""The machine's facts: limits of containers, features, probes, and the cache of measured rates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from textlora import hardware


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def own(tmp_path):
    def make(text: str) -> Path:
        write(tmp_path / "own", text)
        return tmp_path / "own"

    return make


@pytest.fixture
def fresh_rates():
    hardware._rates.cache_clear()
    yield
    hardware._rates.cache_clear()


# -- control groups ------------------------------------------------------------------------------


def test_version_2_quota_is_read_from_the_nearest_group_and_all_above(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "a" / "cpu.max", "150000 100000")
    write(root / "a" / "b" / "cpu.max", "max 100000")
    assert hardware.cpu_quota(root, own("0::/a/b")) == 1.5


def test_version_1_quota(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "cpu" / "job" / "cpu.cfs_quota_us", "300000")
    write(root / "cpu" / "job" / "cpu.cfs_period_us", "100000")
    assert hardware.cpu_quota(root, own("4:memory:/\n2:cpu:/job\n0::/")) == 3.0


@pytest.mark.parametrize("content", ["max 100000", "-1", "", "nonsense", "5 0"])
def test_no_quota(tmp_path, own, content):
    root = tmp_path / "cgroup"
    write(root / "cpu.max", content)
    assert hardware.cpu_quota(root, own("0::/")) is None


def test_groups_of_the_host_that_do_not_exist_inside_the_container(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "cpu.max", "50000 100000")
    assert hardware.cpu_quota(root, own("0::/docker/0123456789")) == 0.5


def test_version_2_memory_counts_the_page_cache_as_free(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "job" / "memory.max", "4000000000")
    write(root / "job" / "memory.current", "3000000000")
    write(root / "job" / "memory.stat", "anon 2000000000\ninactive_file 500000000\nfile 900000000")
    assert hardware.memory_limit(root, own("0::/job")) == (4e9, 1.5e9)


def test_version_1_memory(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "memory" / "job" / "memory.limit_in_bytes", "2000000000")
    write(root / "memory" / "job" / "memory.usage_in_bytes", "500000000")
    write(root / "memory" / "job" / "memory.stat", "total_inactive_file 100000000")
    assert hardware.memory_limit(root, own("4:memory:/job\n2:cpu:/")) == (2e9, 1.6e9)


def test_the_tightest_group_counts(tmp_path, own):
    root = tmp_path / "cgroup"
    write(root / "memory.max", "8000000000")
    write(root / "a" / "memory.max", "2000000000")
    write(root / "a" / "b" / "memory.max", "max")
    assert hardware.memory_limit(root, own("0::/a/b")) == (2e9, 2e9)


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert hardware.memory_limit(tmp_path / "none", tmp_path / "neither") is None
    assert hardware.cpu_quota(tmp_path / "none", tmp_path / "neither") is None


# -- processor and memory ------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no cpuinfo")
@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD  EPYC 9655\nflags\t\t: fpu avx2 avx512f avx512_bf16 xyz\n\nprocessor\t: 1\nmodel name\t: other",
            "AMD EPYC 9655",
            ("avx2", "avx512f", "avx512_bf16"),
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n\nHardware\t: Graviton",
            "Graviton",
            ("asimd", "i8mm", "bf16"),
        ),
    ],
)
def test_processor_of_a_cpuinfo(tmp_path, text, name, features):
    write(tmp_path / "cpuinfo", text)
    assert hardware.processor_name(tmp_path / "cpuinfo") == name
    assert hardware.processor_features(tmp_path / "cpuinfo") == features


def test_processor_without_a_cpuinfo_has_a_name_all_the_same(tmp_path):
    assert hardware.processor_name(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_cores_follow_the_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from textlora.hardware import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_memory_follows_the_address_space_limit():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9));"
        "from textlora.hardware import memory; total, free = memory(); print(total, 0 < free < 2e9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2000000000.0 True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_memory_follows_the_data_limit():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9));"
        "from textlora.hardware import memory; before = memory(); held = bytearray(10**8); after = memory();"
        "print(before[0], 0 < before[1] < 1e9, 0.9e8 < before[1] - after[1] < 1.2e8)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1000000000.0 True True\n"


def test_peak_memory_counts_what_was_held_and_freed():
    before = hardware.peak_memory_gb()
    held = bytearray(b"x") * (300 * 10**6)
    now = psutil.Process().memory_info().rss / 1e9
    del held
    assert hardware.peak_memory_gb() >= before
    assert hardware.peak_memory_gb() == pytest.approx(max(before, now), rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="a way of Linux to count")
def test_peak_memory_leaves_out_what_the_starting_process_held():
    held = bytearray(b"x") * (500 * 10**6)
    code = "from textlora import hardware; print(hardware.peak_memory_gb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3
    del held


def test_free_disk_of_a_folder_that_is_yet_to_be_made(tmp_path):
    free = hardware.free_disk_gb(tmp_path / "runs" / "reviews")
    assert free == pytest.approx(psutil.disk_usage(str(tmp_path)).free / 1e9, rel=0.05)


# -- the machine as a whole ----------------------------------------------------------------------


def test_import_loads_no_torch():
    code = "import sys, textlora.hardware; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_describe_without_a_probe():
    machine = hardware.describe_machine(probe=False)
    assert machine.rates == {}
    assert machine.processor
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.available_memory_gb <= machine.memory_gb <= psutil.virtual_memory().total / 1e9


def test_describe_measures_and_leaves_the_precision_as_it_was(tmp_path, fresh_rates):
    import torch

    before = (torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision)
    machine = hardware.describe_machine(tmp_path)
    assert {"fp32", "fp32_onednn", "bf16"} <= set(machine.rates)
    assert all(0.1 < rate < 1e6 for rate in machine.rates.values())
    assert (torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision) == before


def cache_file(folder: Path) -> Path:
    (path,) = folder.glob("machine-*.json")
    return path


def test_rates_are_read_from_the_cache(tmp_path, fresh_rates):
    hardware.describe_machine(tmp_path)
    path = cache_file(tmp_path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "rates": {"fp32": 12.5, "bf16": 50}}))
    hardware._rates.cache_clear()
    assert hardware.describe_machine(tmp_path).rates == {"fp32": 12.5, "bf16": 50.0}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"key": "other", "rates": {"fp32": 1}}', b'{"rates": {}}', b'{"rates": {"fp32": NaN}}']
)  # fmt: skip
def test_a_damaged_cache_file_is_measured_and_written_anew(tmp_path, fresh_rates, monkeypatch, content):
    monkeypatch.setattr(hardware, "PROBE_SECONDS", 0.0)
    hardware.describe_machine(tmp_path)
    path = cache_file(tmp_path)
    path.write_bytes(content)
    hardware._rates.cache_clear()
    machine = hardware.describe_machine(tmp_path)
    assert json.loads(path.read_text())["rates"] == machine.rates
    assert "bf16" in machine.rates
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path, fresh_rates, monkeypatch):
    monkeypatch.setattr(hardware, "PROBE_SECONDS", 0.0)
    (tmp_path / "file").write_text("in the way")
    assert hardware.describe_machine(tmp_path / "file").rates["fp32"] > 0


def test_changing_the_result_does_not_change_the_next_one(tmp_path, fresh_rates, monkeypatch):
    monkeypatch.setattr(hardware, "PROBE_SECONDS", 0.0)
    hardware.describe_machine(tmp_path).rates["fp32"] = 0.0
    assert hardware.describe_machine(tmp_path).rates["fp32"] > 0
