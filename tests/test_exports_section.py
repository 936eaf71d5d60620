"""The report's section on exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_reporting import Reader, make_facts
from textlora.exports import Exported, Exports, Parity
from textlora.reporting import page
from textlora.types import Interval

EQUAL = Parity(
    "test and validation", 256, 12, 2e-6, 0, 0.9, 0.9, Interval(0.0, -0.015, 0.015), 30.0, 20.0,
)  # fmt: skip
LOST = Parity(
    "test and validation", 5000, 700, 0.7, 140, 0.9, 0.893, Interval(-0.007, -0.011, -0.003), 30.0, 10.0, 0.003,
    ("accuracy falls from 90.00% to 89.30%", "140 of 5,000 rows get another label"),
)  # fmt: skip
MADE = (
    Exported(Path("a"), "hf", 1e-7, None, Parity("made-up", 0, 0, 1e-7), 91_000_000),
    Exported(Path("b"), "onnx", 2e-6, None, EQUAL, 91_000_000),
    Exported(Path("c"), "onnx-int8", 0.7, None, LOST, 23_000_000),
)


@pytest.fixture(scope="module")
def facts():
    return make_facts(exports=Exports("0" * 64, MADE))


def test_the_page_shows_every_format_with_its_figures(facts):
    html = page.html(facts).replace("\u00a0", " ").replace("\u202f", " ")
    Reader(html)  # every tag closes
    assert 'id="exports"' in html
    assert 'href="#exports"' in html
    for words in (
        "made-up texts", "256 rows (test and validation)", "90.0 % → 90.0 %", "+0.00 (−1.50 to +1.50)",
        "30 → 20 ms (1.5 times as fast)", "−0.70 (−1.10 to −0.30); at most 0.3 may be lost", "23.0 MB",
        "onnx-int8 was not written: accuracy falls from 90.00% to 89.30%; 140 of 5,000 rows get another label.",
    ):  # fmt: skip
        assert words in html, words


def test_the_table_in_markdown_is_whole(facts):
    lines = page.markdown(facts).split("## Exports")[1].split("## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1
    assert table[-1].startswith("| onnx-int8 |")
    assert table[-1].endswith("| no |")


def test_others_see_what_was_written_and_not_what_was_refused(facts):
    section = page.exports_for_others(facts.exports)
    assert section.startswith("## Exports\n")
    assert "| onnx |" in section
    assert "onnx-int8" not in section
    assert page.exports_for_others(Exports("0" * 64, MADE[2:])) == ""


def test_without_exports_there_is_no_section():
    assert "xports" not in page.html(make_facts())
    assert "Exports" not in page.markdown(make_facts())


def test_a_refusal_does_not_hide_what_was_written_before():
    written, refused = MADE[1], MADE[2]
    again = Exported(Path("b"), "onnx", 0.7, None, LOST, 0)

    assert Exports("0", (written,)).with_one(again).made == (written,)
    assert Exports("0", (refused,)).with_one(Exported(Path("c"), "onnx-int8", 0.0, None, EQUAL)).made[0].parity == EQUAL
    assert Exports("0").with_one(refused).made == (refused,)
