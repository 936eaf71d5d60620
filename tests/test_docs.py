"""The commands and the Python in README and docs run, and do what the text around them says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import EXAMPLE, ROOT
from tests.test_cli import call

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(<!-- not run: (?P<why>[^>]+) -->\n)?```(?P<kind>console|python)\n(?P<body>.*?)```", re.DOTALL)
# Documents that speak about the past or about machines that are not here.
NOT_COMMANDS = {"log.md"}
# Four whole trainings, and rehearsals of every kind; quickstart.md trains and plans each time, the rest has tests of its own.
SLOW = {"fit.md", "plan.md"}


def blocks(page: Path, kind: str) -> list[str]:
    """Return the page's code blocks of a kind, without those that say why they cannot run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["body"] for match in found if match["kind"] == kind and not match["why"]]


def commands(page: Path) -> list[str]:
    """Return the ``$ textlora …`` lines of a page; a pipe's first part feeds standard input."""
    lines = [line for body in blocks(page, "console") for line in body.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ") and "textlora" in line]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, example_run: Path) -> Path:
    """A folder as the docs assume it: the example, and a finished run in runs/reviews."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").mkdir()
    shutil.copy(EXAMPLE, folder / "examples")
    shutil.copytree(example_run, folder / "runs" / "reviews")
    return folder


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.name in SLOW else (), id=page.name)
        for page in PAGES
        if page.name not in NOT_COMMANDS
    ],
)
def test_commands_of_the_docs_run(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    for command in commands(page):
        given, _, rest = command.rpartition("| ")
        words = shlex.split(rest)
        assert words[0] == "textlora", command
        stdin = " ".join(shlex.split(given)[1:]) + "\n" if given else ""
        result = call(*words[1:], *_fast(words), stdin=stdin)
        assert result.code == 0, (command, result.err)


def _fast(words: list[str]) -> list[str]:
    """Shorten trainings: the docs' commands are checked, not their accuracy."""
    if words[1] == "prepare":
        return ["--overwrite"]  # several examples of a page use one folder
    if words[1] not in ("fit", "plan", "tune") or "--plan" in words:
        return []
    several = {"--seeds", "--folds", "--trials"} & set(words)
    extra = ["--set", "training.epochs=1", "--overwrite", *(["--sample", "0.2"] if several else [])]
    return extra if "--base-model" in words else [*extra, "--base-model", "embedded"]


def test_a_broken_command_would_be_seen(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert call("predict", "runs/missing", "x").code == 2
    assert len([command for page in PAGES for command in commands(page)]) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_docs_runs(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {}
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_docs_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), (page.name, target)
