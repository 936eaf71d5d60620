"""No text, near-duplicate or group stands in two splits; times are split by age; leaked rows are marked."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from tests.test_preparation import append, balanced, findings, ids, quarantine, rows_of, write
from tests.test_similarity import grams
from textlora import storage
from textlora.errors import DataError, ResourceError, UsageError
from textlora.preparation import is_current, load_dataset, prepare
from textlora.preparation import likeness as likeness_module
from textlora.preparation.times import parse_time
from textlora.settings import build, recipe

LABELS = ("negative", "positive")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Waiting for the disk would take most of the time here; that files are flushed is tested with storage."""
    monkeypatch.setattr(storage, "_flush", lambda path: None)


def vocabulary(draw, size=400):
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(size)]


def sentence(draw, words, length):
    return " ".join(draw.choices(words, k=length))


def alike(one, other):
    first, second = grams(one), grams(other)
    return len(first & second) / len(first | second)


def near_copy(draw, words, text):
    """A copy with another spelling, punctuation, or as many changed words as leave it alike by 0.8."""
    copy = text.split()
    while True:
        changed = list(copy)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.choice(words)
        if alike(text, " ".join(changed)) >= 0.8:
            return " ".join(changed)
        if len(copy) < 10:
            return text  # too short to change a word
        if draw.random() < 0.3:
            return text


def spelt(draw, text):
    """The same text as it is compared."""
    return draw.choice([text.upper(), f"“{text}”", text.replace(" ", ", ") + "!!", text.title(), f"… {text} …"])


def planted(draw, count):
    """Rows (text, label, family): rows of a family are copies of each other."""
    words, rows = vocabulary(draw), []
    for family in range(count):
        text = sentence(draw, words, draw.choice([3, 8, 15, 30, 60]))
        label = draw.choice(LABELS)
        rows.append((text, label, family))
        if draw.random() < 0.3:
            for _ in range(draw.choice([1, 1, 2, 4])):
                copy = near_copy(draw, words, text)
                rows.append((copy if copy != text else spelt(draw, text), label, family))
    rows += [(f"{label} {sentence(draw, words, 12)}", label, count + n) for n, label in enumerate(LABELS * 6)]
    draw.shuffle(rows)
    return rows


def homes(dataset):
    """The split of each row, by id."""
    return {row_id: name for name, split in dataset.splits().items() for row_id in split.ids}


@pytest.mark.parametrize("seed", range(300))
def test_no_exact_or_planted_near_duplicate_crosses_a_split(tmp_path, out, seed):
    draw = random.Random(seed)
    rows = planted(draw, draw.choice([15, 40]))
    settings = build({"seed": seed, "data.test_share": draw.choice([0.1, 0.3])})
    dataset = prepare(write(tmp_path, [row[:2] for row in rows]), out=out, settings=settings)
    assert balanced(dataset)
    found = homes(dataset)
    sides = {}
    for number, (_, _, family) in enumerate(rows):
        if str(number) in found:
            sides.setdefault(family, set()).add(found[str(number)])
    assert max(map(len, sides.values())) == 1
    sizes = {name: len(split) for name, split in dataset.splits().items()}
    assert min(sizes.values()) >= 2
    assert all(min(counts) >= 1 for counts in dataset.info.split_counts.values())
    total = sum(sizes.values())
    assert abs(sizes["test"] - settings.data.test_share * total) <= 3


def test_every_pair_of_a_data_set_is_checked_by_brute_force(tmp_path, out):
    """Not only what was planted: no two texts of different splits are alike by 0.8."""
    draw = random.Random(77)
    words = vocabulary(draw, 25)
    texts = list(dict.fromkeys(sentence(draw, words, draw.choice([4, 6, 9, 14])) for _ in range(600)))
    texts += [near_copy(draw, words, draw.choice(texts)) for _ in range(200)]
    texts = list(dict.fromkeys(texts))
    dataset = prepare(write(tmp_path, [(text, draw.choice(LABELS)) for text in texts]), out=out)
    assert findings(dataset, "near_duplicates")
    splits = dataset.splits()
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        for text in splits[one].texts:
            mine = grams(text)
            for against in splits[other].texts:
                theirs = grams(against)
                assert len(mine & theirs) < 0.8 * len(mine | theirs), (text, against)


def test_finding_and_mark_of_near_duplicates(tmp_path, out):
    copies = [("This film is a joy, from its first to its last minute", "positive"),
              ("this film is a joy from its first to its last minute!", "positive"),
              ("This film is a joy, from its first to its last minutes of all", "positive")]  # fmt: skip
    path = write(tmp_path, [*rows_of(40), *copies])
    dataset = prepare(path, out=out)
    assert len({homes(dataset)[row] for row in ("40", "41", "42")}) == 1
    (finding,) = findings(dataset, "near_duplicates")
    assert (finding.level, finding.count) == ("info", 3)
    assert finding.message == (
        "3 rows are near-duplicates, in 1 cluster of texts that share at least 80% of their character 5-grams; "
        "each stays in one split. For instance lines 42, 43, 44 ('This film is a joy, from its first to its last minute')."
    )
    marked = {
        row
        for split in dataset.splits().values()
        for row, mark in zip(split.ids, split.near_duplicates, strict=True)
        if mark
    }
    assert marked == {"40", "41", "42"}
    assert load_dataset(out) == dataset
    assert dataset.train.leaked is None
    assert dataset.train.groups is None


def test_the_threshold_and_off(tmp_path, out):
    rows = [
        *rows_of(40),
        *(
            ("one two three four five six seven eight", "positive"),
            ("one two three four five six seven nine", "positive"),
        ),
    ]
    path = write(tmp_path, rows)
    assert 0.7 < alike(rows[-1][0], rows[-2][0]) < 0.8
    assert prepare(path, out=out).test.near_duplicates is None
    loose = prepare(path, out=out, settings=build({"data.near_duplicates": 0.7}))
    assert sum(sum(split.near_duplicates) for split in loose.splits().values()) == 2
    append(path, "One two three four five six seven eight!,positive\n")
    off = prepare(path, out=out, settings=build({"data.near_duplicates": 0}))
    assert off.test.near_duplicates is None
    assert findings(off, "near_duplicates") == []


@pytest.mark.parametrize(("value", "shown"), [(0.3, "0.3"), (-1, "-1"), (1.5, "1.5")])
def test_thresholds_that_make_no_sense(value, shown):
    with pytest.raises(UsageError) as caught:
        build({"data.near_duplicates": value})
    assert f"data.near_duplicates is {shown}, expected " in str(caught.value)
    if value == 0.3:
        assert "expected 0 or a number from 0.5 to 1." in str(caught.value)


def test_without_near_duplicates_the_data_are_what_they_were(tmp_path, out):
    """Down to the fingerprint that versions without the search gave these rows."""
    draw = random.Random(8)
    words = vocabulary(draw)
    path = write(tmp_path, [(sentence(draw, words, 12), LABELS[n % 2]) for n in range(300)])
    on, off = prepare(path, out=out), prepare(path, out=tmp_path / "b", settings=build({"data.near_duplicates": 0}))
    assert on.splits() == off.splits()
    assert on.fingerprint == off.fingerprint == "7c6fee8016c32f5c8fc3fd4345504f4763508852ec8c32162af3b7e74f97cc82"


def test_the_original_recipe_does_not_look_for_them():
    values, reasons = recipe("stock")
    assert values["data.near_duplicates"] == 0
    assert reasons["data.near_duplicates"] == "the original recipe splits by rows alone"


def test_texts_of_a_template_do_not_end_in_one_split(tmp_path, out):
    """A quarter of the rows and more: their cluster is divided at a higher threshold, and that is said."""
    draw = random.Random(5)
    words = vocabulary(draw)
    made = [
        (
            f"dear customer your order {n} was sent to {draw.choice(words)} today and arrives in a few days thank you for your trust in us",
            LABELS[n % 2],
        )
        for n in range(300)
    ]
    made += [
        ("Dear customer, your order 7777 was sent to you and arrives soon! Thank you", "positive"),
        ("dear customer your order 7777 was sent to you and arrives soon thank you", "positive"),
    ]
    dataset = prepare(write(tmp_path, made), out=out)
    (finding,) = findings(dataset, "near_duplicate_templates")
    assert finding.level == "warning"
    assert finding.message == (
        f"{finding.count} rows are too much alike to be kept together, as texts made from a template are; "
        "among them only those that are more similar stay in one split."
    )
    assert finding.count > 100
    assert homes(dataset)["300"] == homes(dataset)["301"], "equal texts are never parted"
    assert [sum(counts) for counts in dataset.info.split_counts.values()] == pytest.approx([242, 30, 30], abs=8)


def test_a_search_that_cannot_end_is_cut_short_and_said(tmp_path, out, monkeypatch):
    monkeypatch.setattr(likeness_module, "LEAST_COMPARED", 0)
    monkeypatch.setattr(likeness_module, "COMPARED", 0)
    rows = [
        *rows_of(40),
        ("A joy from its first to its last minute, all of it", "positive"),
        ("a joy from its first to its last minute, all of it!", "positive"),
        ("a joy from its first to its last minutes, all of it!", "positive"),
    ]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert findings(dataset, "near_duplicates_missed")[0].message == (
        "So many texts are alike that not all pairs were compared: some near-duplicates may stand in two splits."
    )
    assert homes(dataset)["40"] == homes(dataset)["41"], "equal texts are compared all the same"


def test_more_rows_than_the_search_is_made_for(tmp_path, out, monkeypatch):
    monkeypatch.setattr(likeness_module, "MOST_ROWS", 39)
    dataset = prepare(write(tmp_path, [*rows_of(39), ("REVIEW number 7 says something!", "positive")]), out=out)
    assert findings(dataset, "near_duplicates") == []
    assert findings(dataset, "near_duplicates_missed")[0].message == (
        "Near-duplicates were not looked for: 40 rows are more than the 39 that this is made for. "
        "They may stand in two splits; --sample draws fewer rows."
    )


def test_no_room_on_the_disk_for_the_search(tmp_path, out, monkeypatch):
    monkeypatch.setattr(likeness_module.hardware, "free_disk_gb", lambda folder: 5e-6)
    with pytest.raises(ResourceError) as caught:
        likeness_module._check_disk(out, 1_000_000, likeness_module.similarity.banding(0.8))
    assert str(caught.value) == (
        f"Looking for near-duplicates among 1,000,000 rows takes 0.1 GB of disk, and {out} has 0.0 GB free.\n"
        "Free some space, choose a folder on another disk with --out, or leave it out: --set data.near_duplicates=0."
    )


def test_through_small_blocks_the_same_clusters_are_found(tmp_path, out, monkeypatch):
    from textlora.preparation import spilling

    draw = random.Random(9)
    path = write(tmp_path, [row[:2] for row in planted(draw, 150)])
    whole = prepare(path, out=tmp_path / "whole")
    monkeypatch.setattr(spilling, "BLOCK_ROWS", 7)
    monkeypatch.setattr(likeness_module, "_SKETCHED_ROWS", 3)
    monkeypatch.setattr(likeness_module, "_VERIFIED_SHINGLES", 300)
    monkeypatch.setattr(likeness_module, "_VERIFIED_PAIRS", 5)
    pieces = prepare(path, out=out)
    assert pieces.splits() == whole.splits()
    assert pieces.fingerprint == whole.fingerprint


# -- given files ---------------------------------------------------------------------------------


def given_rows():
    copy = "this film is a joy from its first to its last minute"
    main = [*rows_of(60), (copy, "positive"), ("what a joy this film is in all of its minutes", "positive")]
    test = [(f"other number {n} says something else", LABELS[n % 2]) for n in range(18)]
    test += [
        ("This film is a joy, from its first to its LAST minute!", "positive"),
        ("review number 7 says something", "positive"),
    ]
    return main, test


def test_leaked_rows_of_a_given_file_stay_and_are_marked(tmp_path, out):
    main, test = given_rows()
    dataset = prepare(
        write(tmp_path, main), out=out, test=write(tmp_path, test, "test.csv"), settings=build({"seed": 4})
    )
    assert homes(dataset)["60"] == "train"
    assert len(dataset.test) == 20
    assert [row for row, mark in zip(dataset.test.ids, dataset.test.leaked, strict=True) if mark] == ["test/18"]
    assert dataset.train.leaked is None
    assert dataset.validation.leaked is None
    (finding,) = findings(dataset, "leaked")
    assert finding.level == "warning"
    assert finding.message == (
        "1 row of the test file (5.0%) is a near-duplicate of training rows (test line 20); "
        "it stays there and is marked, and evaluate shows the score with and without it."
    )
    # Equal texts go on being removed from training.
    assert [(row["row"], row["reason"]) for row in quarantine(dataset)] == [("7", "also in the test file")]
    assert dataset.train.near_duplicates[list(dataset.train.ids).index("60")] is True
    assert load_dataset(out) == dataset


def test_a_row_whose_copy_is_in_validation_is_not_leaked(tmp_path, out):
    main, test = given_rows()
    path, file = write(tmp_path, main), write(tmp_path, test, "test.csv")
    for seed in range(40):
        dataset = prepare(path, out=out, test=file, settings=build({"seed": seed}))
        if homes(dataset)["60"] == "validation":
            break
    assert homes(dataset)["60"] == "validation"
    assert dataset.test.leaked is None
    assert findings(dataset, "leaked") == []


def test_both_files_given(tmp_path, out):
    main, test = given_rows()
    validation = [("THIS FILM IS A JOY FROM ITS FIRST TO ITS LAST MINUTE", "positive"), ("a dull one", "negative")]
    dataset = prepare(
        write(tmp_path, main),
        out=out,
        test=write(tmp_path, test, "test.csv"),
        validation=write(tmp_path, validation, "validation.csv"),
    )
    assert len(dataset.train) == 61
    assert list(dataset.validation.leaked) == [True, False]
    assert sum(dataset.test.leaked) == 1
    assert [finding.count for finding in findings(dataset, "leaked")] == [1, 1]


# -- groups --------------------------------------------------------------------------------------


GROUPED = ("review", "sentiment", "author")


def grouped_rows(draw, groups, *, largest=12, labels=LABELS):
    rows = []
    for group in range(groups):
        taste = draw.random()
        for _ in range(draw.randint(1, largest)):
            rows.append(
                (f"text {len(rows)} {draw.random()} of some length", labels[draw.random() < taste], f"author {group}")
            )
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(25))
def test_groups_and_near_duplicates_stay_whole_together(tmp_path, out, seed):
    draw = random.Random(seed)
    rows = grouped_rows(draw, 80)
    words = vocabulary(draw)
    # Copies by other authors tie their groups together.
    for _ in range(4):
        text = sentence(draw, words, 15)
        rows += [
            (text, LABELS[0], f"author {draw.randrange(80)}"),
            (spelt(draw, text), LABELS[0], f"author {draw.randrange(80)}"),
        ]
    path = write(tmp_path, rows, header=GROUPED)
    settings = build({"data.group_column": "author", "seed": seed, "data.test_share": 0.2})
    dataset = prepare(path, out=out, settings=settings)
    found = homes(dataset)
    sides = {}
    for number, (_, _, author) in enumerate(rows):
        sides.setdefault(author, set()).add(found[str(number)])
    assert all(len(side) == 1 for side in sides.values())
    for one in range(len(rows) - 8, len(rows), 2):
        assert found[str(one)] == found[str(one + 1)]
    for split in dataset.splits().values():
        assert list(split.groups) == [rows[int(row)][2] for row in split.ids]
    total = len(rows)
    assert abs(len(dataset.test) / total - 0.2) < 0.03
    assert abs(len(dataset.validation) / total - 0.1) < 0.03
    for counts in dataset.info.split_counts.values():
        overall = sum(label == LABELS[0] for _, label, _ in rows) / total
        assert abs(counts[0] / sum(counts) - overall) < 0.12
    assert findings(dataset, "groups")[0].message.startswith("The 80 groups of 'author' stay whole: ")
    again = prepare(path, out=tmp_path / "again", settings=settings)
    assert again.splits() == dataset.splits()
    assert load_dataset(out) == dataset


def test_groups_by_numbers_and_rows_without_a_group(out):
    frame = pd.DataFrame({"text": [row[0] for row in rows_of(60)], "label": [row[1] for row in rows_of(60)]})
    frame["user"] = [float(n % 20) for n in range(60)]
    frame.loc[[3, 8], "user"] = None
    dataset = prepare(frame, out=out, settings=build({"data.group_column": "user"}))
    groups = {
        row: group for split in dataset.splits().values() for row, group in zip(split.ids, split.groups, strict=True)
    }
    assert groups["4"] == groups["24"] == "4"
    assert (groups["3"], groups["8"]) == ("row 3", "row 8")
    assert findings(dataset, "groups")[0].count == 22


def test_every_row_a_group_of_its_own(tmp_path, out):
    rows = [(*row, f"id {n}") for n, row in enumerate(rows_of(60))]
    dataset = prepare(write(tmp_path, rows, header=GROUPED), out=out, settings=build({"data.group_column": "author"}))
    plain = prepare(write(tmp_path, rows_of(60)), out=tmp_path / "b")
    assert homes(dataset) == homes(plain)
    assert (
        findings(dataset, "groups")[0].message
        == "Every row is a group of its own in the column 'author': it changes nothing."
    )


def refused(error, path, out, **options):
    with pytest.raises(error) as caught:
        prepare(path, out=out, settings=build({f"data.{name}": value for name, value in options.items()}))
    return str(caught.value)


def test_a_group_that_spans_everything(tmp_path, out):
    path = write(tmp_path, [(*row, "the same") for row in rows_of(60)], header=GROUPED)
    assert refused(DataError, path, out, group_column="author") == (
        f"The rows of {path} belong to 1 group of the column 'author'; 3 splits need 3 at least, since a group stays whole.\n"
        "Name a finer column with --group, or leave --group out."
    )


def test_groups_that_near_duplicates_join(tmp_path, out):
    draw = random.Random(2)
    text = sentence(draw, vocabulary(draw), 20)
    rows = [(*row, f"author {n % 3}") for n, row in enumerate(rows_of(60))]
    rows += [(text, "positive", "author 0"), (text.upper(), "positive", "author 1")]
    path = write(tmp_path, rows, header=GROUPED)
    assert refused(DataError, path, out, group_column="author").splitlines()[0] == (
        f"The rows of {path} belong to 3 groups of the column 'author', which near-duplicates join to 2; "
        "3 splits need 3 at least, since a group stays whole."
    )


def test_groups_of_one_label_each(tmp_path, out):
    rows = [(text, label, f"{label} {n % 4 // 2}") for n, (text, label) in enumerate(rows_of(60))]
    path = write(tmp_path, rows, header=GROUPED)
    message = refused(DataError, path, out, group_column="author")
    assert message.splitlines()[0] == "Splitting by groups of 'author', some splits cannot be used:"
    assert "  - the validation split has no row left\n" in message
    assert message.splitlines()[-1] == (
        "Name another column with --group, take larger shares (--set data.test_share=0.2), or add rows."
    )


def test_large_groups_make_uneven_splits(tmp_path, out):
    rows = [(*row, f"author {n % 5}") for n, row in enumerate(rows_of(100))]
    dataset = prepare(write(tmp_path, rows, header=GROUPED), out=out, settings=build({"data.group_column": "author"}))
    assert findings(dataset, "uneven_splits")[0].message == (
        "Groups that stay whole make uneven splits: test 20.0% instead of 10.0%, validation 20.0% instead of 10.0% of the rows."
    )


def test_groups_that_a_given_file_shares(tmp_path, out):
    rows = [(*row, f"author {n % 20}") for n, row in enumerate(rows_of(100))]
    test = [(f"other {n} says this and that", LABELS[n % 2], f"author {n}") for n in range(16, 30)]
    settings = build({"data.group_column": "author"})
    dataset = prepare(
        write(tmp_path, rows, header=GROUPED),
        out=out,
        test=write(tmp_path, test, "test.csv", header=GROUPED),
        settings=settings,
    )
    training = set(dataset.train.groups)
    shared = [group for group in dataset.test.groups if group in training]
    assert findings(dataset, "shared_groups")[0].count == len(shared) > 0
    plain = write(tmp_path, [row[:2] for row in test], "plain.csv")
    dataset = prepare(tmp_path / "reviews.csv", out=out, test=plain, settings=settings)
    assert dataset.test.groups is None
    assert dataset.validation.groups is not None
    assert findings(dataset, "no_groups")[0].message == "The test file has no column for the group: its rows have none."


def test_columns_kept_for_slices(tmp_path, out):
    rows = [(*row, f"author {n % 9}", ("web", "mail", "")[n % 3]) for n, row in enumerate(rows_of(60))]
    path = write(tmp_path, rows, header=(*GROUPED, "source"))
    settings = build({"data.slice_columns": ("source", "author"), "data.group_column": "author"})
    test = write(
        tmp_path,
        [(*row, "web") for row in rows_of(10, prefix="test")],
        "test.csv",
        header=("review", "sentiment", "source"),
    )
    dataset = prepare(path, out=out, settings=settings, test=test)
    for split in (dataset.train, dataset.validation):
        assert set(split.slices) == {"source", "author"}
        assert list(split.slices["source"]) == [rows[int(row)][3] for row in split.ids]
        assert list(split.slices["author"]) == [rows[int(row)][2] for row in split.ids]
    assert set(dataset.test.slices["source"]) == {"web"}
    assert set(dataset.test.slices["author"]) == {""}
    assert load_dataset(out) == dataset
    assert is_current(out, path, settings=settings, test=test)
    assert refused(UsageError, path, out, slice_columns=("soruce",)).splitlines()[0] == (
        f"There is no column 'soruce' in {path}, which shall be kept for slices. Did you mean 'source'?"
    )


def test_columns_that_are_not_there_or_are_taken(tmp_path, out):
    path = write(tmp_path, [(*row, "a") for row in rows_of(40)], header=GROUPED)
    assert refused(UsageError, path, out, group_column="autor") == (
        f"There is no column 'autor' in {path}, which shall be the group. Did you mean 'author'?\n"
        "Columns: review, sentiment, author."
    )
    assert refused(UsageError, path, out, group_column="autor", time_column="date") == (
        f"Some columns are not in {path}:\n"
        f"  - There is no column 'autor' in {path}, which shall be the group. Did you mean 'author'?\n"
        f"  - There is no column 'date' in {path}, which shall be the time.\n"
        "Columns: review, sentiment, author."
    )
    with pytest.raises(UsageError) as caught:
        prepare(path, out=out, label="sentiment", text="review", settings=build({"data.group_column": "sentiment"}))
    assert str(caught.value) == (
        "The column 'sentiment' cannot be both the label and the group.\nName another column with --label or --group."
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_with_several_labels(tmp_path, out, grouped):
    """Near-duplicates and groups stay whole, and every label keeps its share."""
    draw = random.Random(6)
    words, rows = vocabulary(draw), []
    for family in range(250):
        text, labels = sentence(draw, words, 12), "|".join(sorted(draw.sample("abcde", draw.randint(0, 3))))
        rows.append((text, labels, f"author {family // 5}"))
        if draw.random() < 0.3:
            rows.append((spelt(draw, text), labels, f"author {family // 5}"))
    path = write(tmp_path, rows, header=GROUPED)
    flat = {"data.label_separator": "|", **({"data.group_column": "author"} if grouped else {})}
    dataset = prepare(path, out=out, settings=build(flat))
    assert dataset.task == "multi_label"
    found, texts = homes(dataset), {}
    for number, (text, _, author) in enumerate(rows):
        plain = " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
        texts.setdefault(author if grouped else plain, set()).add(found[str(number)])
    assert max(map(len, texts.values())) == 1
    assert load_dataset(out) == dataset
    totals = np.sum(list(dataset.info.split_counts.values()), axis=0)
    assert abs(len(dataset.test) / len(rows) - 0.1) < (0.03 if grouped else 0.01)
    assert (np.abs(np.array(dataset.info.split_counts["test"]) / totals - 0.1) < (0.07 if grouped else 0.04)).all()


# -- time ----------------------------------------------------------------------------------------


TIMED = ("review", "sentiment", "date")


def timed(tmp_path, values, rows=None, name="reviews.csv"):
    rows = rows or rows_of(len(values))
    return write(tmp_path, [(*row, value) for row, value in zip(rows, values, strict=True)], name, header=TIMED)


BY_TIME = build({"data.time_column": "date"})


def test_the_oldest_rows_train_and_the_newest_test(tmp_path, out):
    draw = random.Random(3)
    days = list(pd.date_range("2021-01-01", periods=100).strftime("%Y-%m-%d"))
    draw.shuffle(days)
    dataset = prepare(timed(tmp_path, days), out=out, settings=BY_TIME)
    dates = {name: [days[int(row)] for row in split.ids] for name, split in dataset.splits().items()}
    assert [len(found) for found in dates.values()] == [80, 10, 10]
    assert max(dates["train"]) < min(dates["validation"])
    assert max(dates["validation"]) < min(dates["test"])
    assert findings(dataset, "time")[0].message == (
        "Split by the time 'date': train 2021-01-01 to 2021-03-21, validation 2021-03-22 to 2021-03-31, test 2021-04-01 to 2021-04-10."
    )


def test_equal_times_are_not_divided(tmp_path, out):
    draw = random.Random(1)
    rows = [(sentence(draw, vocabulary(draw), 9), LABELS[n % 2]) for n in range(120)]
    dataset = prepare(timed(tmp_path, [2000 + n // 30 for n in range(120)], rows), out=out, settings=BY_TIME)
    assert [len(split) for split in dataset.splits().values()] == [60, 30, 30]
    assert findings(dataset, "time")[0].message == (
        "Split by the time 'date': train 2000 to 2001, validation 2002 to 2002, test 2003 to 2003."
    )


def test_with_a_given_test_file_the_newest_rows_validate(tmp_path, out):
    path = timed(tmp_path, list(range(100)))
    dataset = prepare(path, out=out, test=write(tmp_path, rows_of(10, prefix="test"), "test.csv"), settings=BY_TIME)
    assert [int(row) for row in dataset.validation.ids] == list(range(90, 100))


def test_newer_copies_of_older_rows_are_set_aside(tmp_path, out):
    rows = rows_of(100)
    rows[10] = ("this film is a joy from its first to its last minute", "positive")
    rows[95] = ("This film is a joy, from its first to its last minute!", "positive")
    rows[12] = rows[10][0] + "s of all", "positive"
    dataset = prepare(timed(tmp_path, list(range(100)), rows), out=out, settings=BY_TIME)
    assert [(row["row"], row["reason"]) for row in quarantine(dataset)] == [("95", "near-duplicate of an older row")]
    assert findings(dataset, "near-duplicate_of_an_older_row")[0].message == (
        "Near-duplicate of an older row: 1 row set aside, which is in an earlier split (line 97)."
    )
    assert balanced(dataset)
    assert {homes(dataset)["10"], homes(dataset)["12"]} == {"train"}


def test_time_and_groups(tmp_path, out):
    rows = [(*row, n, f"author {n // 9}") for n, row in enumerate(rows_of(100))]
    path = write(tmp_path, rows, header=(*TIMED, "author"))
    dataset = prepare(path, out=out, settings=build({"data.time_column": "date", "data.group_column": "author"}))
    groups = {name: set(split.groups) for name, split in dataset.splits().items()}
    assert not groups["train"] & (groups["validation"] | groups["test"])
    assert not groups["validation"] & groups["test"]
    assert dataset.info.counts.quarantined == {"its group has older rows": 1}
    assert balanced(dataset)


def test_times_that_cannot_be_used_are_listed_together(tmp_path, out):
    values = ["2021-01-01"] * 40
    values[3], values[5], values[9] = "soon", "2021-13-01", "2021-02-03T10:00:00+02:00"
    values[11] = "12"
    path = timed(tmp_path, values)
    assert refused(DataError, path, out, time_column="date") == (
        f"The column 'date' of {path} has times that cannot be used:\n"
        "  - line 5: 'soon' is no date and no number\n"
        "  - line 7: '2021-13-01' is no date and no number\n"
        "  - '12' (line 13) is a plain number, '2021-01-01' (line 2) is a date\n"
        "  - '12' (line 13) is a plain number, '2021-02-03T10:00:00+02:00' (line 11) is a date\n"
        "  - '2021-01-01' (line 2) has no time zone, '2021-02-03T10:00:00+02:00' (line 11) has one; either all have one or none\n"
        "Dates such as 2024-01-31 or 2024-01-31T18:30:00+01:00 and plain numbers are understood; correct these or remove the rows."
    )
    many = timed(tmp_path, ["never"] * 40)
    assert "  - 30 more\n" in refused(DataError, many, out, time_column="date")


def test_rows_without_a_time_are_set_aside(tmp_path, out):
    values = [str(n) for n in range(60)]
    values[7] = " "
    dataset = prepare(timed(tmp_path, values), out=out, settings=BY_TIME)
    assert dataset.info.counts.quarantined == {"missing time": 1}


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["03/04/2021", "13/04/2021", "05/01/2021"], [2, 0, 1]),  # day first: another row says so
        (["03/04/2021", "04/13/2021", "05/01/2021"], [0, 1, 2]),
        (["3.4.2021", "13.4.2021", "5.1.2021"], [2, 0, 1]),
        (["2021/3/4", "2021/1/13 10:00", "2020/12/31"], [2, 1, 0]),
        (["2021-01-01T01:00:00+02:00", "2020-12-31T23:30:00Z", "2021-01-01 00:00:00 UTC"], [0, 1, 2]),
        (["Wed Aug 27 13:08:45 +0000 2008", "Tue Aug 26 13:08:45 +0000 2008", "Thu Aug 28 13:08:45 +0200 2008"], [1, 0, 2]),
        (["Wed, 27 Aug 2008 13:08:45 GMT", "Tue, 26 Aug 2008 13:08:45 +0000", "28 Aug 2008 13:08 +0000"], [1, 0, 2]),
        (["Jan 3, 2021", "2 February 2020", "March 1, 2020"], [1, 2, 0]),
        (["1e3", "-5", "2.5"], [1, 2, 0]),
        (["20210301", "20200301", "20220301"], [1, 0, 2]),
    ],
)  # fmt: skip
def test_spellings_of_times(tmp_path, out, values, order):
    count = 30
    column = [values[n % 3] for n in range(count)]
    settings = build({"data.time_column": "date", "data.test_share": 0.33, "data.validation_share": 0.33})
    rows = [(f"text {n} {'xyz'[n % 3]} says", LABELS[n // 3 % 2]) for n in range(count)]
    dataset = prepare(timed(tmp_path, column, rows), out=out, settings=settings)
    assert [{int(row) % 3 for row in split.ids} for split in dataset.splits().values()] == [{place} for place in order]


def test_dates_that_can_be_read_in_two_ways(tmp_path, out):
    path = timed(tmp_path, [f"0{1 + n % 9}/0{1 + n % 7}/2021" for n in range(63)])
    assert "  - nothing tells whether '08/01/2021' (line 9) has the day or the month first\n" in refused(
        DataError, path, out, time_column="date"
    )
    both = timed(tmp_path, ["13/01/2021", "01/13/2021", *["2021-01-01"] * 40])
    assert "  - '13/01/2021' (line 2) has the day first, '01/13/2021' (line 3) the month\n" in refused(
        DataError, both, out, time_column="date"
    )


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "soon", "1,5", "31.02.2021", "2021", "99/99/2021", "12:30", "True", "٣"]
)
def test_what_is_a_time_and_what_is_none(text):
    assert (parse_time(text) is not None) == (text == "2021")


def test_too_few_times_and_one_label_in_the_newest(tmp_path, out):
    path = timed(tmp_path, [2020 + n // 2 % 2 for n in range(60)])
    assert refused(DataError, path, out, time_column="date") == (
        "The column 'date' has 2 different times; 3 splits need 3 at least.\n"
        "Name a finer time with --time, or leave --time out."
    )
    rows = [(f"text number {n} says", LABELS[n > 50]) for n in range(100)]
    path = timed(tmp_path, list(range(100)), rows)
    assert refused(DataError, path, out, time_column="date") == (
        "Splitting by the time 'date', some splits cannot be used:\n"
        "  - the validation split has rows of one label only, 'positive' (10)\n"
        "  - the test split has rows of one label only, 'positive' (10)\n"
        "Name another column with --time, take larger shares (--set data.test_share=0.2), or add rows."
    )


def test_a_label_that_is_missing_in_a_split_is_said(tmp_path, out):
    rows = [(f"text number {n} says", ("a", "b", "c")[2 if n < 20 else n % 2]) for n in range(100)]
    dataset = prepare(timed(tmp_path, list(range(100)), rows), out=out, settings=BY_TIME)
    assert [finding.message for finding in findings(dataset, "absent_label")] == [
        "The validation split has no row with the label 'c'.",
        "The test split has no row with the label 'c'.",
    ]


def test_the_sample_and_times(tmp_path, out):
    path = timed(tmp_path, [*range(199), "soon"])
    settings = build({"data.time_column": "date", "data.sample": 0.5})
    try:
        dataset = prepare(path, out=out, settings=settings)
    except DataError as error:
        assert "line 201: 'soon'" in str(error)  # noqa: PT017 - only where the row was drawn
        return
    assert Counter(ids(dataset)).most_common(1)[0][1] == 1
    assert np.mean([int(row) for row in dataset.train.ids]) < np.mean([int(row) for row in dataset.test.ids])
    assert dataclasses.asdict(dataset.info.counts)["unsampled"] == 100
