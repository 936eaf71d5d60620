"""prepare(): every row is accounted for, no text stands in two splits, errors say what to do."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import lzma
import random
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.test_trainer import small_files
from textlora import hardware, storage
from textlora.errors import DataError, ResourceError, UsageError
from textlora.preparation import CELL_LIMIT, is_current, load_dataset, prepare, repeats, spilling, stored, writing
from textlora.preparation import rows as rows_module
from textlora.preparation.request import make_request
from textlora.settings import build
from textlora.types import SPLIT_NAMES, Finding

LABELS = ("negative", "positive")
HEADER = ("review", "sentiment")


def rows_of(count, *, labels=LABELS, prefix="review"):
    return [(f"{prefix} number {n} says something", labels[n % len(labels)]) for n in range(count)]


def write(folder, rows, name="reviews.csv", header=HEADER):
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return path


def append(path, text):
    with path.open("ab") as stream:
        stream.write(text if isinstance(text, bytes) else text.encode())
    return path


def quarantine(dataset):
    with (dataset.folder / storage.QUARANTINE).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def findings(dataset, kind):
    return [finding for finding in dataset.info.findings if finding.kind == kind]


def balanced(dataset):
    counts = dataset.info.counts
    kept = sum(len(split) for split in dataset.splits().values())
    return counts.kept == kept and counts.read == counts.unsampled + counts.quarantined_total + counts.kept


def ids(dataset):
    return [row_id for split in dataset.splits().values() for row_id in split.ids]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


# -- the plain case ------------------------------------------------------------------------------


def test_plain_file(tmp_path, out):
    path = write(tmp_path, rows_of(100))
    dataset = prepare(path, out=out)
    assert dataset.label_names == LABELS
    assert dataset.task == "single_label"
    assert dataset.info.split_counts == {"train": (40, 40), "validation": (5, 5), "test": (5, 5)}
    assert (dataset.info.source, dataset.info.text_column, dataset.info.label_column) == (str(path), *HEADER)
    assert dataclasses.astuple(dataset.info.counts) == (100, 0, 100, {})
    assert dataset.info.token_lengths is None
    assert sorted(ids(dataset), key=int) == [str(n) for n in range(100)]
    for split in dataset.splits().values():
        assert list(split.ids) == sorted(split.ids, key=int), "source order"
        assert all(example.text == rows_of(100)[int(example.id)][0] for example in split)
        assert all(LABELS[example.label] == rows_of(100)[int(example.id)][1] for example in split)


def test_files_written(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(100)), out=out)
    assert {item.name for item in out.iterdir()} == {
        *(f"{name}.parquet" for name in SPLIT_NAMES),
        "quarantine.csv",
        "dataset.json",
    }
    table = pq.read_table(out / "validation.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("id", "string"),
        ("text", "string"),
        ("label", "int32"),
    ]
    assert pq.ParquetFile(out / "train.parquet").metadata.row_group(0).column(1).compression == "ZSTD"
    assert load_dataset(out) == dataset
    assert (out / "quarantine.csv").read_text() == "line,row,reason,text,label,raw\n"


def test_columns_that_not_every_split_has(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(40)), out=out)
    assert dataset.test.groups is dataset.test.near_duplicates is dataset.test.leaked is None
    assert dataset.test.annotations() == {}
    table = pq.read_table(out / "test.parquet")
    marks = [n % 3 == 0 for n in range(len(table))]
    more = {"group": [f"g{n % 2}" for n in range(len(table))], "near_duplicate": marks, "leaked": marks[::-1]}
    for name, column in more.items():
        table = table.append_column(name, [column])
    pq.write_table(table, out / "test.parquet", row_group_size=3)
    split = stored.open_split(out / "test.parquet")
    assert split.annotations() == more
    assert list(split.leaked) == more["leaked"]
    assert split.near_duplicates[0] is True
    assert split.leaked[1:3] == tuple(more["leaked"][1:3])
    assert np.asarray(split.near_duplicates).dtype == np.bool_
    assert split.groups[1:3] == ("g1", "g0")
    with pytest.raises(ValueError, match="differ in length"):
        dataclasses.replace(split, groups=("a",))


def test_same_seed_same_split_other_seed_other_split(tmp_path, out):
    path = write(tmp_path, rows_of(200))
    first, again = prepare(path, out=out), prepare(path, out=tmp_path / "b")
    other = prepare(path, out=tmp_path / "c", settings=build({"seed": 7}))
    assert first.test == again.test
    assert first.fingerprint == again.fingerprint
    assert first.test != other.test
    assert first.fingerprint != other.fingerprint


def test_split_is_shuffled(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(1_000)), out=out)
    assert 400 < np.mean([int(row_id) for row_id in dataset.test.ids]) < 600


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.25, 0.05), (0.49, 0.49), (0.01, 0.01)])
@pytest.mark.parametrize("sizes", [(3, 3), (3, 400), (11, 17, 23), (333, 334, 335)])
def test_split_is_stratified(tmp_path, out, shares, sizes):
    rows = [(f"text {label} {n}", f"label {label}") for label, size in enumerate(sizes) for n in range(size)]
    random.Random(0).shuffle(rows)
    settings = build({"data.validation_share": shares[0], "data.test_share": shares[1]})
    dataset = prepare(write(tmp_path, rows), out=out, settings=settings)
    counts = dataset.info.split_counts
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == list(sizes)
    for name, share in zip(("validation", "test"), shares, strict=True):
        for found, size in zip(counts[name], sizes, strict=True):
            assert found >= 1
            # Where the shares leave next to nothing, train takes its one row from the others.
            assert abs(found - size * share) <= (1 if sum(shares) < 0.9 else 2)
        if min(sizes) * share >= 1 and sum(shares) < 0.9:
            assert sum(counts[name]) == round(sum(sizes) * share)
    assert min(counts["train"]) >= 1


def test_compressed_utf16_semicolons_and_line_breaks(tmp_path, out):
    path = tmp_path / "reviews.csv.xz"
    body = "".join(f'"text {n};\nsecond – line";{LABELS[n % 2]}\n' for n in range(40))
    path.write_bytes(lzma.compress(("review;sentiment\n" + body).encode("utf-16")))
    dataset = prepare(path, out=out)
    assert dataset.info.counts.kept == 40
    assert set(dataset.train.texts) <= {f"text {n}; second – line" for n in range(40)}


def test_data_frame(out):
    rows = rows_of(60, labels=("0", "1"))
    frame = pd.DataFrame({"text": [row[0] for row in rows], "label": [float(row[1]) for row in rows]})
    frame.loc[3, "label"] = None
    frame.loc[5, "text"] = None
    dataset = prepare(frame, out=out)
    assert dataset.label_names == ("0", "1")
    assert dataset.info.source == "DataFrame"
    assert dataset.info.counts.quarantined == {"missing label": 1, "missing text": 1}
    assert [(row["line"], row["row"]) for row in quarantine(dataset)] == [("4", "3"), ("6", "5")]
    assert load_dataset(out) == dataset


def test_json_lines_and_parquet_give_the_same_rows(tmp_path, out):
    frame = pd.DataFrame(rows_of(60), columns=HEADER)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    paths = [write(tmp_path, rows_of(60)), tmp_path / "a.parquet", tmp_path / "a.jsonl"]
    assert len({prepare(path, out=out).fingerprint for path in paths}) == 1


def test_cells_that_are_no_text(tmp_path, out):
    path = tmp_path / "rows.jsonl"
    rows = [f'{{"text": "text {n}", "label": {n % 2}}}' for n in range(20)]
    path.write_text(
        "\n".join([*rows, '{"text": ["a"], "label": 1}', '{"text": "a", "label": [1, 0]}', '{"text": 12, "label": 1}'])
    )
    dataset = prepare(path, out=out)
    assert dataset.info.counts.quarantined == {"not a text": 1, "not a label": 1}
    assert "12" in [text for split in dataset.splits().values() for text in split.texts]


# -- accounting ----------------------------------------------------------------------------------


def dirty_cell(chooser):
    plain = f"text {chooser.randrange(40)}"
    return chooser.choice(
        [plain] * 8 + ["", "  ", "<br />", f"{plain} &amp; <br>", "NA", "a,b", 'say "x"', "two\nlines", "x" * 300]
    )


def dirty_label(chooser):
    return chooser.choice(["good", "bad", "bad", "good ", "Good", "", " ", "other"])


def dirty_bytes(chooser, rows, name="main"):
    """CSV text with faults of every kind strewn in."""
    lines = []
    for _ in range(rows):
        cells = [dirty_cell(chooser), dirty_label(chooser)]
        quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        fault = chooser.choice(["few", "many", "nul", "open", "stray", *[""] * 30])
        lines.append(
            {"few": "alone", "many": quoted + ",x", "nul": "a\0,good", "open": '"open,good', "stray": 'a,"b"c'}.get(
                fault, quoted
            )
        )
    # Plenty of good ones, so that each label has rows enough.
    lines += [f"surely {label} {n} in {name},{label}" for label in ("good", "bad", "other") for n in range(12)]
    lines += [f"misspelt {n},goood" for n in range(chooser.choice([0, 2]))]
    chooser.shuffle(lines)
    return ("text,label\n" + "\n".join(lines) + "\n").encode()


@pytest.mark.parametrize("seed", range(60))
def test_every_row_of_random_dirty_files_is_accounted_for(tmp_path, out, seed):
    chooser = random.Random(seed)
    settings = build(
        {
            "seed": seed,
            "data.sample": chooser.choice([None, None, 0.8]),
            "data.max_characters": 200,
            "data.max_quarantined_share": 1.0,
        }
    )
    given = {}
    for name in ("test", "validation"):
        if chooser.random() < 0.4:
            given[name] = tmp_path / f"{name}.csv"
            given[name].write_bytes(dirty_bytes(chooser, 30, name))
    path = tmp_path / "dirty.csv"
    path.write_bytes(dirty_bytes(chooser, 150))
    labels = chooser.choice([None, ("good", "bad"), ("bad", "other", "good")])
    dataset = prepare(path, out=out, labels=labels, settings=settings, **given)
    assert balanced(dataset)
    assert Counter(row["reason"] for row in quarantine(dataset)) == dataset.info.counts.quarantined
    rejected = [row["row"] for row in quarantine(dataset) if row["row"] not in ("", "test/", "validation/")]
    assert len(set(ids(dataset) + rejected)) == len(ids(dataset)) + len(rejected), "no row is named twice"
    texts = {name: set(split.texts) for name, split in dataset.splits().items()}
    assert not texts["train"] & texts["validation"]
    assert not (texts["train"] | texts["validation"]) & texts["test"]
    assert all(min(counts) >= 1 for name, counts in dataset.info.split_counts.items() if name not in given)
    assert all(text == " ".join(text.split()) and 0 < len(text) <= 200 for kept in texts.values() for text in kept)
    assert load_dataset(out) == dataset


@pytest.mark.parametrize("seed", range(12))
def test_rows_that_go_through_the_disk_come_out_the_same(tmp_path, out, monkeypatch, seed):
    """Blocks, row groups and sorted parts of a few rows each, instead of one of each."""
    chooser = random.Random(1_000 + seed)
    path = tmp_path / "dirty.csv"
    path.write_bytes(dirty_bytes(chooser, 300))
    given = {}
    for name in ("test", "validation")[: seed % 3]:
        given[name] = tmp_path / f"{name}.csv"
        given[name].write_bytes(dirty_bytes(chooser, 40, name))
    sample = None if seed % 2 else 0.8
    settings = build({"data.sample": sample, "data.max_characters": 200, "data.max_quarantined_share": 1.0})
    whole = prepare(path, out=tmp_path / "whole", settings=settings, **given)
    monkeypatch.setattr(spilling, "BLOCK_ROWS", 7)
    monkeypatch.setattr(repeats, "_SORTED_ROWS", 16)
    monkeypatch.setattr(writing, "GROUP_ROWS", 5)
    pieces = prepare(path, out=out, settings=settings, **given)
    assert pq.ParquetFile(out / "train.parquet").metadata.num_row_groups > 1
    assert pieces.splits() == whole.splits()
    assert (out / "quarantine.csv").read_bytes() == (tmp_path / "whole" / "quarantine.csv").read_bytes()
    assert dataclasses.replace(pieces.info, split_sha256={}) == dataclasses.replace(whole.info, split_sha256={})
    assert balanced(pieces)
    assert load_dataset(out) == pieces


def test_counts_are_what_pandas_would_give(tmp_path, out):
    """Two independent ways to the same numbers: pandas on the same clean-enough file."""
    chooser = random.Random(3)
    rows = [(f"text {chooser.randrange(400)}", chooser.choice(["a", "b"])) for _ in range(600)]
    dataset = prepare(write(tmp_path, rows), out=out)
    frame = pd.DataFrame(rows, columns=HEADER)
    labels = frame.groupby("review")["sentiment"].nunique()
    conflicting = frame["review"].map(labels) > 1
    assert dataset.info.counts.quarantined == {
        "conflicting labels": int(conflicting.sum()),
        "duplicate": int(frame[~conflicting].duplicated().sum()),
    }
    assert {int(row_id) for row_id in ids(dataset)} == set(frame[~conflicting].drop_duplicates().index)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.333, 0.5, 1.0])
@pytest.mark.parametrize("seed", [42, 0, 2**32 - 1])
def test_sample_is_the_one_of_pandas(tmp_path, out, share, seed):
    path = write(tmp_path, rows_of(301))
    dataset = prepare(path, out=out, settings=build({"data.sample": share, "seed": seed}))
    drawn = pd.read_csv(path).sample(frac=share, random_state=seed)
    assert {int(row_id) for row_id in ids(dataset)} == set(drawn.index)
    assert dataset.info.counts.unsampled == 301 - len(drawn)


def test_sample_counts_whole_rows_only(tmp_path, out):
    """Broken lines shift no row: the sample is that of the file without them."""
    clean = write(tmp_path, rows_of(300))
    lines = clean.read_text().splitlines()
    dirty = tmp_path / "dirty.csv"
    dirty.write_text("\n".join([lines[0], "one cell", *lines[1:100], "a,b,c", *lines[100:]]) + "\n")
    settings = build({"data.sample": 0.2})
    first, second = prepare(clean, out=out, settings=settings), prepare(dirty, out=tmp_path / "b", settings=settings)
    assert first.splits() == second.splits()
    assert second.info.counts.read == 302
    assert second.info.counts.unsampled == 240
    assert balanced(second)


def test_finding_of_the_sample(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(300)), out=out, settings=build({"data.sample": 0.2}))
    assert findings(dataset, "sample") == [
        Finding("sample", "info", "A sample of 60 of 300 rows was drawn with seed 42.", 240)
    ]


def test_sample_of_nothing(tmp_path, out):
    with pytest.raises(DataError) as caught:
        prepare(write(tmp_path, rows_of(40)), out=out, settings=build({"data.sample": 0.001}))
    assert str(caught.value) == "A sample of 0.001 of 40 rows is empty.\nDraw more with --sample."


# -- what is set aside ---------------------------------------------------------------------------


def test_faults_are_listed_with_line_and_reason(tmp_path, out):
    path = write(tmp_path, rows_of(100))
    append(path, "only one cell\n")  # line 102
    append(path, "three,cells,here\n")
    append(path, b"nul \0 byte,positive\n")
    append(path, ",positive\n")  # 105
    append(path, "<br />,positive\n")
    append(path, "no label,\n")
    append(path, "=1+1 is a formula,\n")
    append(path, '"never closed,positive\n')
    dataset = prepare(path, out=out)
    found = [
        (row["line"], row["row"], row["reason"], row["text"], row["label"], row["raw"]) for row in quarantine(dataset)
    ]
    assert found == [
        ("102", "", "too few cells", "", "", "only one cell"),
        ("103", "", "too many cells", "", "", "three,cells,here"),
        ("104", "", "nul byte", "", "", "nul ␀ byte,positive"),
        ("105", "100", "missing text", "", "positive", ""),
        ("106", "101", "missing text", "<br />", "positive", ""),
        ("107", "102", "missing label", "no label", "", ""),
        ("108", "103", "missing label", "'=1+1 is a formula", "", ""),
        ("109", "", "unclosed quote", "", "", "'\"never closed,positive".removeprefix("'")),
    ]
    assert findings(dataset, "missing_label") == [
        Finding("missing_label", "warning", "Missing label: 2 rows set aside (lines 107, 108).", 2)
    ]
    assert findings(dataset, "nul_byte") == [Finding("nul_byte", "warning", "Nul byte: 1 row set aside (line 104).", 1)]


def test_words_for_nothing_are_texts(tmp_path, out):
    rows = [*rows_of(40), ("NA", "positive"), ("None", "negative"), ("null", "positive")]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert dataset.info.counts.kept == 43


def test_duplicates_are_found_after_cleaning(tmp_path, out):
    rows = [
        *rows_of(40),
        ("review  number 0<br />says something ", "negative"),
        ("review number 1 says something", "positive"),
    ]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert [(row["line"], row["reason"]) for row in quarantine(dataset)] == [("42", "duplicate"), ("43", "duplicate")]
    assert {"0", "1"} <= set(ids(dataset)), "the first is kept"
    assert findings(dataset, "duplicate") == [
        Finding("duplicate", "info", "Duplicate: 2 rows set aside, the first of each kept (lines 42, 43).", 2)
    ]
    assert findings(dataset, "markup") == [
        Finding("markup", "info", "HTML line breaks and entities were cleaned in 1 texts.", 1)
    ]


def test_markup_can_stay(tmp_path, out):
    rows = [*rows_of(40), ("a <br /> b &amp; c", "negative")]
    dataset = prepare(write(tmp_path, rows), out=out, settings=build({"data.clean_html": False}))
    assert "a <br /> b &amp; c" in [text for split in dataset.splits().values() for text in split.texts]
    assert findings(dataset, "markup") == []


def test_conflicting_labels_are_all_set_aside(tmp_path, out):
    rows = [*rows_of(40), ("same", "positive"), ("same", "positive"), ("same", "negative")]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert [(row["line"], row["reason"]) for row in quarantine(dataset)] == [
        ("42", "conflicting labels"),
        ("43", "conflicting labels"),
        ("44", "conflicting labels"),
    ]
    assert findings(dataset, "conflicting_labels")[0].message == (
        "Conflicting labels: 3 rows set aside, all rows of a text that has several labels (lines 42, 43, 44)."
    )


def test_a_cell_of_fifty_megabytes(tmp_path, out):
    path = append(write(tmp_path, rows_of(40)), b"x" * 50_000_000 + b",positive\n")
    dataset = prepare(path, out=out)
    assert dataset.info.counts.quarantined == {"oversized": 1}
    (row,) = quarantine(dataset)
    assert (row["line"], row["raw"]) == ("42", "x" * CELL_LIMIT)
    assert dataset.info.counts.kept == 40


def test_a_cell_over_the_set_limit(tmp_path, out):
    rows = [*rows_of(40), ("y" * 5_000, "positive"), ("long label", "z" * 5_000)]
    dataset = prepare(write(tmp_path, rows), out=out, settings=build({"data.max_characters": 3_000}))
    assert dataset.info.counts.quarantined == {"oversized": 2}
    assert [(row["row"], len(row["text"]), len(row["label"])) for row in quarantine(dataset)] == [
        ("40", CELL_LIMIT, 8),
        ("41", 10, CELL_LIMIT),
    ]


def test_lone_surrogates_are_replaced_everywhere(tmp_path, out):
    path = tmp_path / "rows.jsonl"
    rows = [f'{{"text": "text {n} \\ud83d", "label": "l{n % 2}"}}' for n in range(20)]
    path.write_text("\n".join([*rows, '{"text": "bad \\ud83d", "label": null}']))
    dataset = prepare(path, out=out)
    assert all(text.endswith(" \ufffd") for text in dataset.train.texts)
    assert quarantine(dataset)[0]["text"] == "bad \ufffd"


def test_long_quarantine_lists_are_cut(tmp_path, out):
    dataset = prepare(write(tmp_path, [*rows_of(40), *rows_of(40)]), out=out)
    assert findings(dataset, "duplicate")[0].message == (
        "Duplicate: 40 rows set aside, the first of each kept (lines 42, 43, 44, 45, 46 and 35 more)."
    )


# -- labels --------------------------------------------------------------------------------------


def test_natural_order_of_labels(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(60, labels=("10", "9", "2"))), out=out)
    assert dataset.label_names == ("2", "9", "10")


def test_given_labels_fix_order_and_set(tmp_path, out):
    rows = [*rows_of(40), ("who knows", "neutral"), ("hm", "NEGATIVE")]
    dataset = prepare(write(tmp_path, rows), out=out, labels=["positive", "negative"])
    assert dataset.label_names == ("positive", "negative")
    assert dataset.info.counts.quarantined == {"unknown label": 1}
    assert findings(dataset, "unknown_label")[0].message == "Unknown label: 1 row set aside, label 'neutral' (line 42)."
    assert (
        findings(dataset, "label_spelling")[0].message == "The label 'NEGATIVE' was read as 'negative': 1 of the rows."
    )


def test_misspelt_labels_are_named(tmp_path, out):
    rows = [*rows_of(200), ("a", "postive"), ("b", "postive"), ("c", "Negatve")]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert dataset.label_names == LABELS
    assert dataset.info.counts.quarantined == {
        "label looks like a typo of 'positive'": 2,
        "label looks like a typo of 'negative'": 1,
    }
    assert findings(dataset, "label_typo") == [
        Finding(
            "label_typo",
            "warning",
            "Label looks like a typo of 'positive': 2 rows set aside, label 'postive' (lines 202, 203).",
            2,
        ),
        Finding(
            "label_typo",
            "warning",
            "Label looks like a typo of 'negative': 1 row set aside, label 'Negatve' (line 204).",
            1,
        ),
    ]


def test_space_and_capitals_make_no_other_label(tmp_path, out):
    rows = [*rows_of(40), ("a", " positive "), ("b", "Positive"), ("c", "POSITIVE")]
    dataset = prepare(write(tmp_path, rows), out=out)
    assert dataset.label_names == LABELS
    assert dataset.info.counts.kept == 43
    assert [finding.message for finding in findings(dataset, "label_spelling")] == [
        "The label 'Positive' was read as 'positive': 1 of the rows.",
        "The label 'POSITIVE' was read as 'positive': 1 of the rows.",
    ]


@pytest.mark.parametrize("labels", [["positive"], [], ["positive", " "]])
def test_too_few_given_labels(tmp_path, out, labels):
    with pytest.raises(UsageError) as caught:
        prepare(write(tmp_path, rows_of(40)), out=out, labels=labels)
    shown = ",".join(label.strip() for label in labels)
    assert str(caught.value) == (
        f"The labels are {shown!r}; at least two names are expected.\nWrite them as --labels negative,positive."
    )


def test_label_given_twice(tmp_path, out):
    with pytest.raises(UsageError) as caught:
        prepare(write(tmp_path, rows_of(40)), out=out, labels=["a", "b", "A"])
    assert str(caught.value) == (
        "The labels 'a,b,A' name one of them twice.\nWrite them as --labels negative,positive."
    )


# -- given files ---------------------------------------------------------------------------------


def test_given_test_file(tmp_path, out):
    main = write(tmp_path, [*rows_of(100), *rows_of(10, prefix="official")])
    test = write(tmp_path, [*rows_of(20, prefix="official"), ("odd", "neutral"), ("", "positive")], "test.csv")
    append(test, "broken\n")
    dataset = prepare(main, out=out, test=test)
    assert dataset.info.split_counts == {"train": (45, 45), "validation": (5, 5), "test": (10, 10)}
    assert dataset.test.ids == tuple(f"test/{n}" for n in range(20))
    assert dataset.info.counts.quarantined == {
        "too few cells": 1,
        "missing text": 1,
        "unknown label": 1,
        "also in the test file": 10,
    }
    assert balanced(dataset)
    assert findings(dataset, "overlap") == [
        Finding(
            "overlap",
            "warning",
            "Also in the test file: 10 rows set aside, the test file itself is kept whole "
            "(lines 102, 103, 104, 105, 106 and 5 more).",
            10,
        )
    ]
    assert [(row["line"], row["row"]) for row in quarantine(dataset)][-3:] == [
        ("22", "test/20"),
        ("23", "test/21"),
        ("24", "test/"),
    ]
    assert findings(dataset, "missing_text")[0].message == "Missing text: 1 row set aside (test line 23)."


def test_given_validation_and_test_files(tmp_path, out):
    shared = [("in all three", "positive")]
    main = write(tmp_path, [*rows_of(50), *shared, ("in two", "negative")])
    validation = write(tmp_path, [*rows_of(6, prefix="v"), *shared, ("in two", "negative")], "validation.csv")
    test = write(tmp_path, [*rows_of(6, prefix="t"), *shared], "test.csv")
    dataset = prepare(main, out=out, validation=validation, test=test)
    assert len(dataset.train) == 50, "no share is taken from the training file"
    assert dataset.validation.ids == (*(f"validation/{n}" for n in range(6)), "validation/7")
    assert len(dataset.test) == 7
    assert dataset.info.counts.quarantined == {"also in the test file": 2, "also in the validation file": 1}
    assert balanced(dataset)


def test_given_test_files_keep_their_duplicates(tmp_path, out):
    rows = rows_of(10, prefix="official")
    test = write(tmp_path, [*rows, rows[0], (rows[1][0], "negative")], "test.csv")
    dataset = prepare(write(tmp_path, rows_of(50)), out=out, test=test)
    assert len(dataset.test) == 12
    assert findings(dataset, "given_duplicates") == [
        Finding("given_duplicates", "warning", "2 rows of the test file repeat a text of it; they were kept.", 2)
    ]


def test_sample_leaves_given_files_whole(tmp_path, out):
    test = write(tmp_path, rows_of(30, prefix="official"), "test.csv")
    dataset = prepare(write(tmp_path, rows_of(100)), out=out, test=test, settings=build({"data.sample": 0.5}))
    assert len(dataset.test) == 30
    assert dataset.info.counts.unsampled == 50
    assert balanced(dataset)


def test_given_file_without_the_columns(tmp_path, out):
    main = write(tmp_path, rows_of(50))
    test = write(tmp_path, rows_of(10), "test.csv", header=("reviews", "kind"))
    with pytest.raises(DataError) as caught:
        prepare(main, out=out, test=test)
    assert str(caught.value) == (
        f"The test file must have the columns of {main}:\n"
        f"  - There is no column 'review' in {test}. Did you mean 'reviews'?\n"
        f"  - There is no column 'sentiment' in {test}.\n"
        "Rename the columns of one of the files."
    )


def test_given_file_of_other_labels(tmp_path, out):
    test = write(tmp_path, rows_of(4, labels=("0", "1")), "test.csv")
    with pytest.raises(DataError) as caught:
        prepare(write(tmp_path, rows_of(50)), out=out, test=test)
    assert str(caught.value) == (
        f"No row of the test file {test} is left.\n"
        "  - 4 of 54 rows set aside: unknown label (test lines 2, 3, 4, 5)\n"
        "Known labels: negative, positive."
    )


def test_given_file_that_lacks_a_label(tmp_path, out):
    test = write(tmp_path, rows_of(4, labels=("positive",)), "test.csv")
    dataset = prepare(write(tmp_path, rows_of(50)), out=out, test=test)
    assert findings(dataset, "absent_label") == [
        Finding("absent_label", "warning", "The test file has no row with the label 'negative'.", 1)
    ]


# -- data that cannot be used --------------------------------------------------------------------


def test_missing_file_leaves_no_folder(tmp_path, out):
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "none.csv", out=out)
    assert str(caught.value) == f"{tmp_path / 'none.csv'} does not exist.\nCheck the path and the name."
    assert caught.value.exit_code == 3
    assert not out.exists()


def test_wrong_column(tmp_path, out):
    path = write(tmp_path, rows_of(40))
    with pytest.raises(UsageError) as caught:
        prepare(path, out=out, label="sentimnt")
    assert str(caught.value) == (
        f"There is no column 'sentimnt' in {path}. Did you mean 'sentiment'?\nColumns: review, sentiment."
    )


def test_latin1(tmp_path, out):
    path = append(write(tmp_path, rows_of(40)), "café,positive\n".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    offset = path.stat().st_size - len("é,positive\n")
    assert str(caught.value) == (
        f"{path} is not UTF-8: byte 0xe9 at offset {offset} (line 42) cannot be read.\n"
        "If you know how the file was saved, say it: --encoding latin-1, or --encoding cp1252 for files from Windows."
    )
    assert prepare(path, out=out, encoding="latin-1").info.counts.kept == 41


def test_thirty_percent_ragged_rows(tmp_path, out):
    path = write(tmp_path, rows_of(70))
    append(path, "one cell\n" * 20 + "a,b,c\n" * 10)
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        f"30 of 100 rows of {path} are broken (30%), more than the 20% that are tolerated: the file itself is suspect.\n"
        "  - 20 of 100 rows set aside: too few cells (lines 72, 73, 74, 75, 76 and 15 more)\n"
        "  - 10 of 100 rows set aside: too many cells (lines 92, 93, 94, 95, 96 and 5 more)\n"
        "Mend the file. The cells were taken as divided by ','. "
        "To go on without the broken rows: --set data.max_quarantined_share=0.31."
    )
    dataset = prepare(path, out=out, settings=build({"data.max_quarantined_share": 0.31}))
    assert dataset.info.counts.quarantined == {"too few cells": 20, "too many cells": 10}
    assert balanced(dataset)


def test_missing_labels_and_duplicates_do_not_make_a_file_suspect(tmp_path, out):
    rows = [*rows_of(40), *rows_of(40), *((f"unlabelled {n}", "") for n in range(40))]
    assert prepare(write(tmp_path, rows), out=out).info.counts.kept == 40


def test_one_class(tmp_path, out):
    path = write(tmp_path, [*rows_of(40, labels=("positive",)), ("a", "")])
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        f"{path} has one label only, 'positive'; at least two are needed.\n"
        "  - 1 of 41 rows set aside: missing label (line 42)\n"
        "Name another label column with --label."
    )


def test_label_seen_once(tmp_path, out):
    path = write(tmp_path, [*rows_of(40), ("hm", "neutral"), ("so", "mixed"), ("la", "mixed")])
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        f"Every label needs at least 3 different texts, one for each split to be made; in {path} some have fewer:\n"
        "  - the label 'mixed' has 2 texts (lines 43, 44)\n"
        "  - the label 'neutral' has one text only (line 42)\n"
        "Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside."
    )
    assert prepare(path, out=out, labels=LABELS).info.counts.quarantined == {"unknown label": 3}


def test_given_splits_lower_what_is_needed(tmp_path, out):
    path = write(tmp_path, [*rows_of(40), ("hm", "neutral")])
    test = write(tmp_path, rows_of(4, prefix="t"), "test.csv")
    with pytest.raises(DataError, match="Every label needs at least 2 different texts"):
        prepare(path, out=out, test=test)
    validation = write(tmp_path, rows_of(4, prefix="v"), "validation.csv")
    dataset = prepare(path, out=out, test=test, validation=validation)
    assert dataset.info.split_counts["train"] == (20, 1, 20)


def test_given_label_without_rows(tmp_path, out):
    path = write(tmp_path, rows_of(40))
    with pytest.raises(DataError) as caught:
        prepare(path, out=out, labels=["negative", "positive", "neutral"])
    assert caught.value.problems == ("the label 'neutral' has no row left",)


def test_all_rows_duplicates(tmp_path, out):
    path = write(tmp_path, [("good", "positive"), ("bad", "negative")] * 20)
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        f"Every label needs at least 3 different texts, one for each split to be made; in {path} some have fewer:\n"
        "  - the label 'negative' has one text only (line 3)\n"
        "  - the label 'positive' has one text only (line 2)\n"
        "  - 38 of 40 rows set aside: duplicate (lines 4, 5, 6, 7, 8 and 33 more)\n"
        "Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside."
    )


def test_nothing_left(tmp_path, out):
    path = write(tmp_path, [("same", "positive"), ("same", "negative")] * 20)
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        f"No row of {path} is left.\n"
        "  - 40 of 40 rows set aside: conflicting labels (lines 2, 3, 4, 5, 6 and 35 more)\n"
        "Look at the reasons above."
    )


def test_no_labels_at_all(tmp_path, out):
    path = write(tmp_path, [(f"text {n}", "") for n in range(30)])
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert caught.value.message == f"No row of {path} is left."
    assert caught.value.problems == ("30 of 30 rows set aside: missing label (lines 2, 3, 4, 5, 6 and 25 more)",)


def test_many_short_labels_are_cut(tmp_path, out):
    path = write(tmp_path, [(f"text {n}", f"{n / 7:.3f}") for n in range(30)])
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1] == "20 more labels"


def test_too_many_labels(tmp_path, out, monkeypatch):
    monkeypatch.setattr(rows_module, "LABEL_LIMIT", 50)
    path = write(tmp_path, [(f"text {n}", f"label {n}") for n in range(51)])
    with pytest.raises(DataError) as caught:
        prepare(path, out=out)
    assert str(caught.value) == (
        "The label column 'sentiment' has more than 50 different labels.\nName another label column with --label."
    )
    assert list(out.iterdir()) == []


def test_only_broken_rows(tmp_path, out):
    path = append(write(tmp_path, []), "one cell\n" * 20)
    with pytest.raises(DataError) as caught:
        prepare(path, out=out, text="review", label="sentiment", settings=build({"data.max_quarantined_share": 1.0}))
    assert str(caught.value) == (
        f"No row of {path} is left.\n"
        "  - 20 of 20 rows set aside: too few cells (lines 2, 3, 4, 5, 6 and 15 more)\n"
        "Look at the reasons above."
    )


@pytest.mark.parametrize(
    ("sample", "packed", "needed"), [(None, False, "1.5"), (0.5, False, "2.2"), (None, True, "6.0")]
)
def test_a_disk_that_is_too_small(tmp_path, out, monkeypatch, sample, packed, needed):
    path = write(tmp_path, rows_of(40))
    if packed:
        path = tmp_path / "reviews.csv.gz"
        path.write_bytes(gzip.compress((tmp_path / "reviews.csv").read_bytes()))
    with path.open("ab") as stream:
        stream.truncate(10**9)  # a hole: no disk is used
    monkeypatch.setattr(hardware, "free_disk_gb", lambda _: 1.25)
    with pytest.raises(ResourceError) as caught:
        spilling.check_disk(out, make_request(path, None, None, None, {}, None, build({"data.sample": sample})))
    assert str(caught.value) == (
        f"Preparing {path} may take {needed} GB of disk, and {out} has 1.2 GB free.\n"
        "Free some space, or choose a folder on another disk with --out."
    )


def test_a_disk_that_fills_up(tmp_path, out):
    path = write(tmp_path, [(f"{n} {random.Random(n).randbytes(200).hex()}", LABELS[n % 2]) for n in range(20_000)])
    with small_files(2_000_000), pytest.raises(ResourceError) as caught:
        prepare(path, out=out)
    assert caught.value.message == f"Cannot write {out}: File too large."
    assert list(out.iterdir()) == []


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError) as caught:
        prepare(write(tmp_path, rows_of(40)), out=tmp_path / "file" / "run")
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'run'} cannot be made: a file of that name is in the way.\n"
        "Choose another folder with --out."
    )


# -- length, progress ----------------------------------------------------------------------------


class WordCounter:
    """Counts words and two special tokens."""

    base_model = "words"
    max_length = 8

    def count(self, texts):
        return [len(text.split()) + 2 for text in texts]


def test_token_lengths(tmp_path, out):
    rows = [(" ".join(f"w{n}" for _ in range(n + 1)), LABELS[n % 2]) for n in range(20)]
    dataset = prepare(write(tmp_path, rows), out=out, token_counter=WordCounter())
    counts = np.arange(1, 21) + 2
    lengths = dataset.info.token_lengths
    assert (lengths.base_model, lengths.max_length) == ("words", 8)
    assert lengths.quantiles == (3, 4, 7, 12, 17, 20, 21, 22, 22)
    assert lengths.mean == counts.mean()
    assert lengths.mean_cut == np.minimum(counts, 8).mean()
    assert lengths.rows_cut == 14
    assert lengths.tokens_cut_share == pytest.approx(1 - np.minimum(counts, 8).sum() / counts.sum())
    assert sum(lengths.histogram) == 20
    assert findings(dataset, "length")[0].message == (
        "Half of the texts have at most 12 tokens, the longest 22; 14 (70.0%) exceed 8, "
        "and the cut removes 42.0% of all text."
    )
    assert load_dataset(out) == dataset


class LongCounter(WordCounter):
    max_length = 64


def test_histogram_of_lengths(tmp_path, out):
    lengths = [31, 32, 63, 64, 95, 96, 500, 1, 1, 1]
    rows = [(" ".join([f"w{n}"] * (length - 2)) or f"x{n}", LABELS[n % 2]) for n, length in enumerate(lengths)]
    dataset = prepare(write(tmp_path, rows), out=out, token_counter=LongCounter())
    assert dataset.info.token_lengths.histogram == (4, 2, 2, 2)


def test_progress(tmp_path, out):
    seen = []
    prepare(
        write(tmp_path, rows_of(2_500)),
        out=out,
        token_counter=WordCounter(),
        progress=lambda *step: seen.append(step),
    )
    assert seen == [
        ("read", 1_000, None),
        ("read", 2_000, None),
        ("read", 2_500, None),
        ("sketch", 2_500, 2_500),
        *(("near-duplicates", band, 37) for band in range(1, 38)),
        ("count tokens", 1_024, 2_500),
        ("count tokens", 2_048, 2_500),
        ("count tokens", 2_500, 2_500),
        ("write", 2_000, 2_500),
        ("write", 2_250, 2_500),
        ("write", 2_500, 2_500),
    ]


def test_progress_foretells_the_rows(tmp_path, out):
    """From the share of the file that is read, once that says something."""
    seen = []
    rows = [(f"{n} {'word ' * 60}", LABELS[n % 2]) for n in range(12_000)]
    prepare(write(tmp_path, rows), out=out, progress=lambda *step: seen.append(step))
    foretold = [total for stage, _, total in seen if stage == "read" and total]
    assert 0.7 * 12_000 < foretold[-1] < 1.3 * 12_000
    assert seen[11:13] == [("read", 12_000, None), ("read", 12_000, None)]


def test_guesses_are_warned_of(tmp_path, out):
    path = tmp_path / "rows.csv"
    path.write_text("text,label;more\n" + "".join(f"text number {n} here,{'ab'[n % 2]};z\n" for n in range(30)))
    dataset = prepare(path, out=out)
    assert findings(dataset, "delimiter") == [
        Finding("delimiter", "warning", "The cells are taken as divided by ',' (guess).", 0)
    ]
    assert findings(dataset, "columns") == [
        Finding(
            "columns",
            "info",
            "The text is column 'text' (sure: its name and its content agree), "
            "the label column 'label;more' (likely: a part of its name and its content say so).",
            0,
        )
    ]


def test_a_guessed_column_is_warned_of(tmp_path, out):
    # As many labels as texts by thrice: no label column to look at, but the name says so.
    frame = pd.DataFrame({"text": [f"some text number {n}" for n in range(600)], "label": [n // 3 for n in range(600)]})
    (finding,) = findings(prepare(frame, out=out), "columns")
    assert finding.level == "warning"
    assert "'label' (guess: its name says so, but it has many distinct values)" in finding.message


# -- reading back --------------------------------------------------------------------------------


def test_load_without_files(tmp_path, out):
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert str(caught.value) == (
        f"{out / 'dataset.json'} does not exist.\n`textlora prepare` writes it: run that first."
    )
    prepare(write(tmp_path, rows_of(40)), out=out)
    (out / "test.parquet").unlink()
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert str(caught.value) == (
        f"{out / 'test.parquet'} does not exist.\n`textlora prepare` writes it: run that first."
    )


def test_load_damaged_rows(tmp_path, out):
    prepare(write(tmp_path, rows_of(40)), out=out)
    (out / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert caught.value.message.startswith(f"{out / 'test.parquet'} is damaged: ")
    assert caught.value.hint == "Run `textlora prepare` again."


def test_load_mixed_files(tmp_path, out):
    prepare(write(tmp_path, rows_of(40)), out=out)
    other = prepare(write(tmp_path, rows_of(40)), out=tmp_path / "b", settings=build({"seed": 1}))
    (out / "test.parquet").write_bytes((other.folder / "test.parquet").read_bytes())
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert str(caught.value) == (
        f"{out / 'dataset.json'} and the rows beside it (train.parquet, validation.parquet, test.parquet) "
        "are not of the same preparation.\nRun `textlora prepare` again."
    )


def test_rows_are_read_when_they_are_needed(tmp_path, out, monkeypatch):
    monkeypatch.setattr(writing, "GROUP_ROWS", 10)
    monkeypatch.setattr(spilling, "BLOCK_ROWS", 10)
    prepare(write(tmp_path, rows_of(200)), out=out)
    texts = load_dataset(out).train.texts
    expected = pq.read_table(out / "train.parquet")["text"].to_pylist()
    assert list(texts) == expected
    assert [texts[n] for n in (0, 15, 159, -1, -160)] == [expected[n] for n in (0, 15, 159, -1, -160)]
    for part in (
        slice(None),
        slice(3, 47),
        slice(-5, None),
        slice(150, 900),
        slice(0, 0),
        slice(9, 2),
        slice(None, None, 7),
    ):
        assert texts[part] == tuple(expected[part])
    assert texts[::-1] == tuple(expected[::-1])
    assert expected[77] in texts
    assert texts.index(expected[77]) == 77
    assert texts == expected
    assert texts != expected[:-1]
    assert texts != [*expected[:-1], "other"]
    assert repr(texts) == f"<160 texts in {out / 'train.parquet'}>"
    with pytest.raises(IndexError):
        texts[160]


def test_labels_as_numbers(tmp_path, out):
    labels = prepare(write(tmp_path, rows_of(100)), out=out).train.labels
    expected = [n % 2 for n in map(int, load_dataset(out).train.ids)]
    assert labels == tuple(expected)
    assert (labels[0], labels[-1], labels[2:6]) == (expected[0], expected[-1], tuple(expected[2:6]))
    assert all(type(label) is int for label in (*labels, labels[3], *labels[:2]))
    assert np.asarray(labels, np.int64).tolist() == expected
    assert np.array(labels).dtype == np.int32
    with pytest.raises(IndexError):
        labels[80]


def test_rows_stay_the_same_when_others_take_their_place(tmp_path, out):
    first = prepare(write(tmp_path, rows_of(100)), out=out)
    second = prepare(write(tmp_path, rows_of(60, prefix="other")), out=out)
    assert all(text.startswith("review") for text in first.train.texts)
    assert all(text.startswith("other") for text in second.train.texts)


def test_same_rows_written_by_another_program(tmp_path, out):
    info = prepare(write(tmp_path, rows_of(100)), out=out).info
    frame = pd.read_parquet(out / "train.parquet")
    frame.to_parquet(out / "train.parquet", compression="gzip")
    assert load_dataset(out).info == info
    assert load_dataset(out).train.texts == frame["text"].tolist()
    frame.loc[3, "label"] = 1 - frame.loc[3, "label"]
    frame.to_parquet(out / "train.parquet")
    with pytest.raises(UsageError, match="are not of the same preparation"):
        load_dataset(out)


def test_a_split_without_its_columns(tmp_path, out):
    prepare(write(tmp_path, rows_of(100)), out=out)
    pd.read_parquet(out / "test.parquet").drop(columns="text").to_parquet(out / "test.parquet")
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert str(caught.value) == (
        f"{out / 'test.parquet'} is damaged: the column 'text' is missing\nRun `textlora prepare` again."
    )


def test_damage_further_down_in_a_split(tmp_path, out):
    dataset = prepare(write(tmp_path, rows_of(1_000)), out=out)
    path = out / "train.parquet"
    raw = bytearray(path.read_bytes())
    raw[1_000:3_000] = bytes(2_000)
    path.write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        load_dataset(out)
    assert caught.value.message.startswith(f"{path} is damaged: ")
    assert dataset.info.counts.kept == 1_000


def test_a_run_folder_without_digests_is_read(tmp_path, out):
    """As earlier versions wrote it."""
    dataset = prepare(write(tmp_path, rows_of(60)), out=out)
    document = json.loads((out / "dataset.json").read_text())
    del document["split_sha256"]
    (out / "dataset.json").write_text(json.dumps(document))
    assert load_dataset(out).splits() == dataset.splits()
    (out / "test.parquet").write_bytes((out / "validation.parquet").read_bytes())
    with pytest.raises(UsageError, match="are not of the same preparation"):
        load_dataset(out)


def test_is_current(tmp_path, out):
    path = write(tmp_path, rows_of(40))
    test = write(tmp_path, rows_of(8, prefix="t"), "test.csv")
    asked = {"labels": LABELS, "test": test, "settings": build({"data.sample": 0.5})}
    assert not is_current(out, path, **asked)
    prepare(path, out=out, **asked)
    assert is_current(out, path, **asked)
    assert is_current(out, str(path), **asked)
    assert not is_current(out, path, **asked | {"labels": None})
    assert not is_current(out, path, **asked | {"settings": build({"data.sample": 0.6})})
    assert not is_current(out, path, **asked | {"settings": build({"data.sample": 0.5, "seed": 1})})
    assert not is_current(out, tmp_path / "none.csv", **asked)
    append(test, "new,positive\n")
    assert not is_current(out, path, **asked)


def test_second_prepare_replaces_the_first_and_leaves_other_files(tmp_path, out):
    prepare(write(tmp_path, [*rows_of(40), *rows_of(3)]), out=out)
    (out / "notes.txt").write_text("mine")
    dataset = prepare(write(tmp_path, rows_of(60)), out=out)
    assert load_dataset(out) == dataset
    assert quarantine(dataset) == []
    assert (out / "notes.txt").read_text() == "mine"
