"""The benchmarks follow the code that they measure: each can be loaded, and says how it is used."""

from __future__ import annotations

import importlib
from pathlib import Path

import benchmarks
import pytest

SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(Path(benchmarks.__file__).parent.glob("*.py"))}
MODULES = [name for name in SOURCES if name != "__init__"]
ASKED = [
    name for name in MODULES if "(arguments: Sequence" in SOURCES[name] or "_options() -> argparse" in SOURCES[name]
]


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_loaded(name):
    module = importlib.import_module(f"benchmarks.{name}")

    assert module.__doc__


@pytest.mark.parametrize("name", ASKED)
def test_a_benchmark_tells_its_options(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])

    with pytest.raises(SystemExit) as stop:
        module.main()

    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
