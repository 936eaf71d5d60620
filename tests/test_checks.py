"""The data checks on plain values."""

from __future__ import annotations

import math
import random

import pytest

from textlora import checks
from textlora.types import Finding, TokenLengths


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", "\t\n", "\u00a0"])
def test_missing(value):
    assert checks.is_missing(value)


@pytest.mark.parametrize("value", ["NA", "None", "null", "nan", "0", 0, False, 0.0])
def test_words_for_nothing_are_values(value):
    assert not checks.is_missing(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("a b", "a b"), (12, "12"), (1.5, "1.5"), (["a"], None), ({"a": 1}, None), (b"a", None)],
)
def test_as_text(value, text):
    assert checks.as_text(value) == text


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"),
        (1.0, "1"),
        (1.5, "1.5"),
        (True, "True"),
        ("  very \t good ", "very good"),
        (None, ""),
        (math.inf, "inf"),
        ([1], None),
        ("\ud800", "\ufffd"),
    ],
)
def test_as_label(value, label):
    assert checks.as_label(value) == label


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("one<br /><br />two<BR>three< br/>four", "one two three four"),
        ("Tom &amp; Jerry &quot;ok&quot; &#39;yes&#x27;&nbsp;&eacute;", "Tom & Jerry \"ok\" 'yes' é"),
        ("a &lt;br /&gt; b", "a b"),
        ("  many \n\n spaces\u00a0here ", "many spaces here"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("?a=1&copy=2&lt", "?a=1&copy=2&lt"),
        ("AT&T; &nothing; &#xD800;", "AT&T; &nothing; \ufffd"),
        ("<b>bold</b> stays", "<b>bold</b> stays"),
        ("<br />", ""),
    ],
)
def test_clean_text(raw, clean):
    assert checks.clean_text(raw) == clean


def test_clean_text_without_markup():
    assert checks.clean_text(" a <br />  &amp; \udc00", markup=False) == "a <br /> &amp; \ufffd"


def test_cleaning_plain_text_twice_changes_nothing():
    chooser = random.Random(0)
    for _ in range(500):
        raw = "".join(chooser.choices(["a", " ", "\n", "\ud800", "é", "<", "br", ">", "\u2028"], k=20))
        once = checks.clean_text(raw, markup=False)
        assert checks.clean_text(once, markup=False) == once
        once.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "found"), [("a<br>b", True), ("a &amp; b", True), ("AT&T; a < b & c; <b>", False), ("&nothing;", False)]
)
def test_has_markup(text, found):
    assert checks.has_markup(text) is found


@pytest.mark.parametrize(
    "ordered",
    [
        ("negative", "positive"),
        ("-1", "0", "2", "10"),
        ("1", "1.5", "2", "neutral"),
        ("class 2", "class 10", "Class 11"),
        ("a", "B", "c"),
        ("a1b2", "a1b10", "a2"),
    ],
)
def test_natural_order(ordered):
    for seed in range(5):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert checks.natural_order(shuffled) == ordered


def test_natural_order_of_any_labels():
    labels = ["", "²", "٣", "a", "1a", "a1", "1", "01", "A", "+1", "1e5", "nan", "inf"]
    assert checks.natural_order(labels) == checks.natural_order(reversed(labels))


def test_spelling_variants():
    counts = {"positive": 5, "Positive": 2, "POSITIVE": 1, "Negative": 3, "negative": 3, "other": 1}
    assert checks.spelling_variants(counts) == {
        "Positive": "positive",
        "POSITIVE": "positive",
        "negative": "Negative",
    }


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("postive", "positive", 1),
        ("abcd", "acbd", 1),
        ("kitten", "sitting", 3),
        ("ab", "ba", 1),
    ],
)
def test_edit_distance(first, second, distance):
    assert checks.edit_distance(first, second) == distance
    assert checks.edit_distance(second, first) == distance


@pytest.mark.parametrize("typo", ["postive", "positve", "Postive", "psoitive", "positiv", "possitivee"])
def test_typos_are_found(typo):
    assert checks.label_typos({"positive": 200, "negative": 190, typo: 2}) == {typo: "positive"}


@pytest.mark.parametrize(
    "counts",
    [
        {"positive": 200, "negative": 190, "neutral": 1},
        {"happy": 200, "unhappy": 1},
        {"unhappy": 200, "happy": 1},
        {"moral": 200, "immoral": 1},
        {"class 1": 200, "class 2": 1},
        {"1": 200, "7": 1},
        {"cat": 200, "cap": 1},
        {"positive": 200, "postive": 3},
        {"positive": 4, "postive": 1},
    ],
)
def test_other_labels_are_no_typos(counts):
    assert checks.label_typos(counts) == {}


def test_the_nearest_label_is_named():
    assert checks.label_typos({"sadness": 100, "madness": 300, "sadnes": 1}) == {"sadnes": "sadness"}


def test_half_a_percent_is_rare_in_large_files():
    assert checks.label_typos({"positive": 2_000, "postive": 10}) == {"postive": "positive"}


def test_balance():
    assert checks.balance_finding(("no", "yes"), (40, 60)) == Finding(
        "class_balance", "info", "Rows by class: yes 60 (60.0%), no 40 (40.0%).", 100
    )
    assert checks.balance_finding(("no", "yes"), (100, 1_900)) == Finding(
        "class_balance",
        "warning",
        "The classes are lopsided: yes 1,900 (95.0%), no 100 (5.0%); the largest has 19.0 times the rows of the smallest.",
        2_000,
    )
    many = checks.balance_finding([str(n) for n in range(12)], [10] * 12)
    assert many.message.endswith("9 10 (8.3%) and 2 more.")


def lengths(rows_cut):
    quantiles = (3, 10, 20, 30, 40, 60, 70, 90, 100)
    return TokenLengths("embedded", 64, quantiles, 45.0, 40.0, rows_cut, 0.125, (1,))


def test_length():
    assert checks.length_finding(lengths(50), 200) == Finding(
        "length",
        "info",
        "Half of the texts have at most 30 tokens, the longest 100; 50 (25.0%) exceed 64, "
        "and the cut removes 12.5% of all text.",
        50,
    )
    assert checks.length_finding(lengths(0), 200).message == (
        "Half of the texts have at most 30 tokens, the longest 100; all fit into 64."
    )
