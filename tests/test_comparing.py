"""compare() on runs that were evaluated for true: naive Bayes on more and on fewer words."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import sklearn.metrics as reference

import textlora
from tests.test_cli import call
from tests.test_evaluation import Bayes, make_dataset
from textlora import intervals, significance, storage
from textlora.comparing import compare, sentence
from textlora.errors import UsageError
from textlora.evaluation import evaluate, load_evaluation
from textlora.paired import Difference
from textlora.types import Interval


class Weak(Bayes):
    """The same method after a look at a few training texts only."""

    rows = 12

    def __init__(self, dataset, fingerprint="w" * 64):
        super().__init__(dataset)
        texts, labels = dataset.train.texts[: self.rows], dataset.train.labels[: self.rows]
        self.model.fit(self.vectorizer.transform(texts), labels)
        self.fingerprint = fingerprint


def run(folder, dataset, scorer, **named):
    evaluate(folder, dataset, classifier=scorer, baseline=False, resamples=50, **named)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), test=200)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "weak", dataset, Weak(dataset))
    return run(folder / "strong", dataset, Bayes(dataset)), folder / "weak"


def right(dataset, scorer):
    return scorer.predict_proba(dataset.test.texts).argmax(1) == np.array(dataset.test.labels)


def refused(*folders):
    with pytest.raises(UsageError) as error:
        compare(*folders)
    return error.value


def test_a_better_run_is_found(dataset, runs):
    strong, weak = runs
    found = compare(weak, strong)
    ours, theirs = right(dataset, Bayes(dataset)), right(dataset, Weak(dataset))
    difference = found.runs[1].accuracy
    assert difference.interval == intervals.paired_difference(ours, theirs)
    assert difference.p_value == pytest.approx(significance.mcnemar(ours, theirs), abs=1e-12)
    scores = [
        reference.f1_score(dataset.test.labels, scorer.predict_proba(dataset.test.texts).argmax(1), average="macro")
        for scorer in (Bayes(dataset), Weak(dataset))
    ]
    assert found.runs[1].f1_macro.interval.value == pytest.approx(scores[0] - scores[1], abs=1e-12)
    assert (found.split, found.rows, found.groups, found.headline) == ("test", 200, 0, "accuracy")
    assert difference.verdict == "better"
    assert found.runs[1].told.startswith(f"{strong} is really better than {weak}: +")
    assert found.runs[0].accuracy is None
    assert found.runs[0].scores["accuracy"] == load_evaluation(weak).metrics["accuracy"]
    assert compare(strong, weak).runs[1].accuracy.verdict == "worse"
    assert compare(weak, strong) == found


def test_several_runs_are_corrected(dataset, runs, tmp_path):
    strong, weak = runs
    middle = Weak(dataset, "m" * 64)
    middle.rows = 40
    middle.__init__(dataset, "m" * 64)
    third = run(tmp_path / "middle", dataset, middle)
    found = compare(weak, strong, third)
    alone = [compare(weak, other).runs[1].accuracy.p_value for other in (strong, third)]
    assert [one.accuracy.p_value for one in found.runs[1:]] == list(significance.holm(alone))
    assert "The p-values are corrected for the number of comparisons (Holm)." in found.notes
    assert [one.run for one in found.runs] == [str(weak), str(strong), str(third)]


def test_groups_are_compared_as_groups(dataset, tmp_path):
    groups = tuple(f"author {row // 10}" for row in range(200))
    grouped = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, groups=groups))
    one, two = run(tmp_path / "a", grouped, Weak(dataset)), run(tmp_path / "b", grouped, Bayes(dataset))
    found = compare(one, two).runs[1].accuracy
    numbers = np.arange(200) // 10
    ours, theirs = right(dataset, Bayes(dataset)), right(dataset, Weak(dataset))
    assert found.interval == intervals.paired_difference(ours, theirs, numbers)
    assert found.p_value == significance.mcnemar(ours, theirs, numbers)
    assert found.groups == compare(one, two).groups == 20


def test_one_run_and_none():
    assert str(refused("runs/a")) == (
        "compare needs two runs at least, and 1 was named.\nFor instance: textlora compare runs/first runs/second"
    )
    assert refused().message == "compare needs two runs at least, and none was named."


def test_the_same_twice_missing_and_not_evaluated_are_told_together(runs, tmp_path):
    strong, _ = runs
    (tmp_path / "empty").mkdir()
    error = refused(strong, strong, tmp_path / "empty", tmp_path / "none")
    assert str(error) == (
        "These runs cannot be compared:\n"
        f"  - {strong} was named twice\n"
        f"  - {tmp_path / 'empty'} was not evaluated: it has no evaluation.json and no predictions.parquet\n"
        f"  - {tmp_path / 'none'} is no folder\n"
        "Name different runs, each of them evaluated: `textlora evaluate RUN`."
    )


def test_a_copy_of_a_run_is_the_same_classifier(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "copy")
    error = refused(runs[0], tmp_path / "copy")
    assert error.problems == (f"{tmp_path / 'copy'}: it holds the same classifier, so there is nothing to compare",)


def test_other_rows_are_refused_with_all_that_differs(dataset, runs, tmp_path):
    strong, _ = runs
    other = make_dataset(tmp_path, test=150, validation=90)
    other = dataclasses.replace(other, info=dataclasses.replace(other.info, fingerprint="e" * 64))
    validation = run(tmp_path / "validation", other, Weak(other), split="validation")
    shorter = run(tmp_path / "shorter", other, Weak(other))
    assert str(refused(strong, validation, shorter)) == (
        f"Only what was measured on the same rows can be compared, here with {strong}:\n"
        f"  - {validation}: its data have the fingerprint eeeeeeeeeeee…, those of the first dddddddddddd…\n"
        f"  - {validation}: it was scored on the validation split, the first on the test split\n"
        f"  - {validation}: it has 90 rows, the first has 200\n"
        f"  - {shorter}: its data have the fingerprint eeeeeeeeeeee…, those of the first dddddddddddd…\n"
        f"  - {shorter}: it has 150 rows, the first has 200\n"
        "Evaluate all of them on the same split of the same data."
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda split: {"ids": tuple(reversed(split.ids))}, "200 of its 200 rows have another id at their place"),
        (lambda split: {"labels": (1 - split.labels[0], *split.labels[1:])}, "the same ids have other labels"),
        (lambda split: {"texts": ("another text", *split.texts[1:])}, "the same ids have other texts"),
    ],
)
def test_rows_are_told_apart_by_id_label_and_text(dataset, runs, tmp_path, change, told):
    changed = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, **change(dataset.test)))
    other = run(tmp_path / "other", changed, Weak(dataset))
    assert refused(runs[0], other).problems == (f"{other}: {told}",)


def test_the_same_rows_of_other_data_are_compared_and_that_is_said(dataset, runs, tmp_path):
    info = dataclasses.replace(dataset.info, fingerprint="f" * 64)
    more = run(tmp_path / "more", dataclasses.replace(dataset, info=info), Weak(dataset))
    found = compare(runs[0], more)
    assert found.notes[0] == "The runs learnt from different data; the rows they were scored on are the same."


def test_other_tasks_and_labels(runs, tmp_path):
    strong, weak = runs
    for name, change, told in (
        ("task", {"task": "multi_label"}, "its rows have several labels, those of the first one label each"),
        ("labels", {"label_names": ["yes", "no"]}, "its labels are 'yes', 'no', those of the first 'bad', 'good'"),
    ):
        shutil.copytree(weak, tmp_path / name)
        path = tmp_path / name / storage.EVALUATION
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
        assert refused(strong, tmp_path / name).problems == (f"{tmp_path / name}: {told}",)


def test_files_of_two_evaluations_and_damaged_ones(dataset, runs, tmp_path):
    strong, weak = runs
    stale = shutil.copytree(weak, tmp_path / "stale")
    shutil.copy(run(tmp_path / "short", dataset, Weak(dataset), split="validation") / storage.PREDICTIONS, stale)
    assert refused(strong, stale).problems == (
        f"{stale}: evaluation.json is of 200 rows, predictions.parquet of 60; `textlora evaluate` writes both anew",
    )
    (stale / storage.PREDICTIONS).write_bytes(b"PAR1 no")
    error = refused(strong, stale)
    assert error.message.startswith(f"{stale / storage.PREDICTIONS} is damaged: ")
    assert error.hint == "Run `textlora evaluate` again."


@pytest.mark.parametrize(
    ("interval", "p_value", "told"),
    [
        (Interval(0.021, 0.004, 0.038), 0.012, "b is really better than a: +2.1 points of accuracy (95 % interval +0.4 to +3.8, p = 0.012)."),
        (Interval(-0.021, -0.038, -0.004), 0.0001, "b is really worse than a: −2.1 points of accuracy (95 % interval −3.8 to −0.4, p < 0.001)."),
        (Interval(0.001, -0.006, 0.008), 0.8, "b and a are as good as each other: they differ by less than a point of accuracy: +0.1 points of accuracy (95 % interval −0.6 to +0.8, p = 0.8)."),
        (Interval(0.02, -0.03, 0.07), 0.4, "Too few rows to tell whether b is better or worse than a: +2.0 points of accuracy (95 % interval −3.0 to +7.0, p = 0.4). About 5,100 rows would show a difference of this size."),
        (Interval(0.0, -0.05, 0.05), 1.0, "Too few rows to tell whether b is better or worse than a: +0.0 points of accuracy (95 % interval −5.0 to +5.0, p = 1)."),
    ],
)  # fmt: skip
def test_the_verdict_in_words(interval, p_value, told):
    assert sentence(Difference("accuracy", interval, p_value, 400), "b", "a") == told


def test_the_command_line(runs):
    strong, weak = runs
    shown = call("compare", weak, strong)
    assert shown.code == 0
    for words in (
        "test split, the same 200 rows",
        "difference from the first",
        "F1 (macro)",
        f"{strong} is really better than {weak}",
    ):
        assert words in shown.out
    found = json.loads(call("compare", weak, strong, "--json").out)["comparison"]
    assert found["runs"][1]["accuracy"]["verdict"] == "better"
    assert found["runs"][1]["told"] == textlora.compare(weak, strong).runs[1].told
    failed = call("compare", weak, weak)
    assert failed.code == 2
    assert "was named twice" in failed.err
    assert call("compare", weak).code == 2
