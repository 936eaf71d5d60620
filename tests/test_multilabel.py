"""Rows with several labels, from the file to predictions: prepare, train, evaluate, report, predict, export."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import QUICK, WORDS, ToyRun, reload_in_this_process
from tests.test_cli import call
from textlora import (
    api,
    encoder,
    evaluation,
    exporting,
    goals,
    planning,
    redeciding,
    reporting,
    storage,
    thresholds,
    training,
)
from textlora.classifier import Classifier
from textlora.decision import Calibration
from textlora.errors import DataError, UsageError
from textlora.preparation import load_dataset, prepare
from textlora.preparation.label_sets import LabelSets
from textlora.preparation.stratifying import stratify
from textlora.scoring import score_file
from textlora.settings import build
from textlora.tasks import label_matrix
from textlora.types import without
from textlora.windows import split as windows_of

HINTS = {"joy": ["good", "lovely"], "anger": ["bad", "hated"], "fear": ["boring", "awful"]}
SHARES = {"joy": 0.5, "anger": 0.4, "fear": 0.25}
WINDOWS = {"text.policy": "windows", "text.max_length": 8, "text.window_overlap": 2, "text.max_windows": 3}


def texts_and_labels(rows=150, *, seed=1):
    """Texts that show each of their labels, of which there are none to three, in two words."""
    draw, texts, labels = random.Random(seed), [], []
    for _ in range(rows):
        names = [name for name, share in SHARES.items() if draw.random() < share]
        words = draw.choices(WORDS[:10], k=draw.randint(4, 12)) + [w for name in names for w in 2 * HINTS[name]]
        draw.shuffle(words)
        texts.append(" ".join([*words, *draw.choices(WORDS[-9:], k=4)]))
        labels.append(names)
    return texts, labels


def write(folder, labels, texts=None, *, name="data.csv"):
    texts = texts or [f"text number {number} {'x' * (number % 7)}" for number in range(len(labels))]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / name, index=False)
    return folder / name


def prepared(folder, labels, separator="|", **named):
    settings = build({"data.label_separator": separator} if separator else {})
    return prepare(write(folder, labels), out=folder / "run", settings=settings, **named)


def refused(kind, folder, labels, **named):
    with pytest.raises(kind) as error:
        prepared(folder, labels, **named)
    return str(error.value)


MIXED = ["a", "b", "a|b", "", "b|a", "a | b"] * 10


class TestPrepare:
    def test_all_forms_of_the_same_labels_give_the_same_data(self, tmp_path):
        texts, labels = texts_and_labels(60)
        frame = pd.DataFrame({"text": texts, "label": labels})
        frame.to_parquet(tmp_path / "lists.parquet")
        frame.to_json(tmp_path / "lists.jsonl", orient="records", lines=True)
        frame.to_csv(tmp_path / "python.csv", index=False)
        frame.assign(label=frame["label"].map(json.dumps)).to_csv(tmp_path / "json.csv", index=False)
        frame.assign(label=frame["label"].map(";".join)).to_csv(tmp_path / "separated.csv", index=False)
        sources = [
            frame,
            *(tmp_path / f"{name}" for name in ("lists.parquet", "lists.jsonl", "python.csv", "json.csv")),
        ]
        found = [prepare(source, out=tmp_path / str(number)) for number, source in enumerate(sources)]
        found.append(
            prepare(tmp_path / "separated.csv", out=tmp_path / "s", settings=build({"data.label_separator": ";"}))
        )
        assert len({dataset.fingerprint for dataset in found}) == 1
        assert {dataset.task for dataset in found} == {"multi_label"}
        assert found[0].label_names == ("anger", "fear", "joy")
        ids, rows = [], []
        for split in found[0].splits().values():
            ids += split.ids
            rows += split.labels
        by_row = {
            int(row): [found[0].label_names[label] for label in labels] for row, labels in zip(ids, rows, strict=True)
        }
        assert all(sorted(labels[row]) == names for row, names in by_row.items())

    def test_what_is_written_is_read_back(self, tmp_path):
        dataset = prepared(tmp_path, MIXED)
        again = load_dataset(tmp_path / "run")
        assert again.info == dataset.info
        assert pq.read_schema(tmp_path / "run" / "train.parquet").field("label").type == pa.list_(pa.int32())
        assert set(again.train.labels) == {(0,), (1,), (0, 1), ()}
        assert again.train.labels[2:5] == tuple(again.train.labels)[2:5]
        assert again.train.labels[-1] == list(again.train.labels)[-1]
        assert [example.label for example in again.test] == list(again.test.labels)
        assert dataset.info.split_counts["train"] == again.train.class_counts(2)
        assert [dataset.info.rows_in(name) for name in ("train", "validation", "test")] == [48, 6, 6]
        assert dataset.info.counts.kept == 60

    def test_findings_say_what_the_labels_are(self, tmp_path):
        found = {finding.kind: finding for finding in prepared(tmp_path, MIXED).info.findings}
        assert (
            found["multi_label"].message
            == "The labels in column 'label' are divided by '|': rows may have several labels."
        )
        assert found["labels_per_row"].message == (
            "The rows have 1.33 labels on average and 2 at most, in 4 combinations; 10 (16.7%) have none, which is an "
            "answer like any other."
        )
        assert found["class_balance"].message == "Rows by class: a 40 (66.7%), b 40 (66.7%)."
        assert found["few_validation_rows"].message == (
            "Fewer than 5 validation rows have the label 'a', 'b': too few to fit their thresholds, which stay at 0.5."
        )

    def test_lists_with_a_separator_say_that_it_is_not_used(self, tmp_path):
        labels = [json.dumps(cell.split("|")) for cell in MIXED]
        found = {finding.kind: finding for finding in prepared(tmp_path, labels).info.findings}
        assert found["multi_label"].message == (
            "The label column 'label' holds lists: rows may have several labels; they need no separator, so it was not used."
        )

    def test_one_label_each_is_worth_a_warning(self, tmp_path):
        dataset = prepared(tmp_path, ["['a']", "['b']"] * 20, separator=None)
        assert [finding.message for finding in dataset.info.findings if finding.kind == "one_label_each"] == [
            "Every row has exactly one label: as a column of single labels the classifier would give exactly one, too."
        ]

    def test_spelling_and_typos_are_those_of_single_labels(self, tmp_path):
        labels = ["happy|sad", "Happy", "sad", "happy"] * 40 + ["hapyp|sad"]
        dataset = prepared(tmp_path, labels)
        assert dataset.label_names == ("happy", "sad")
        assert dataset.info.counts.quarantined == {"label looks like a typo of 'happy'": 1}
        assert "hapyp, sad" in (tmp_path / "run" / "quarantine.csv").read_text(encoding="utf-8")
        assert any("'Happy' was read as 'happy'" in finding.message for finding in dataset.info.findings)

    def test_other_labels_than_the_named_ones_are_taken_off_their_rows(self, tmp_path):
        path, settings = write(tmp_path, ["a|b", "b|c", "c", "A", "b"] * 12), build({"data.label_separator": "|"})
        dataset = prepare(path, out=tmp_path / "run", labels=["b", "a"], settings=settings)
        assert dataset.label_names == ("b", "a")
        assert dataset.info.counts.kept == 60
        rows = [labels for split in dataset.splits().values() for labels in split.labels]
        assert {labels: rows.count(labels) for labels in set(rows)} == {(0, 1): 12, (0,): 24, (): 12, (1,): 12}
        assert [finding.message for finding in dataset.info.findings if finding.kind == "other_labels"] == [
            "Labels that --labels does not name were taken off their rows, which stay: 'c' (24)."
        ]

    def test_an_unknown_label_in_a_test_file_sets_its_row_aside(self, tmp_path):
        test = write(tmp_path, ["a|b", "a|z", "b", ""], texts=["one", "two", "three", "four"], name="test.csv")
        dataset = prepared(tmp_path, MIXED, test=test)
        assert list(dataset.test.labels) == [(0, 1), (1,), ()]
        assert dataset.info.counts.quarantined == {"unknown label": 1}

    def test_the_same_text_with_other_labels_is_a_conflict(self, tmp_path):
        path = write(tmp_path, ["a|b", "b|a", "a", *MIXED], texts=["same", "same", "same", *map(str, range(60))])
        dataset = prepare(path, out=tmp_path / "run", settings=build({"data.label_separator": "|"}))
        assert dataset.info.counts.quarantined == {"conflicting labels": 3}

    def test_cells_that_are_no_lists_are_set_aside(self, tmp_path):
        dataset = prepared(tmp_path, ["['a']", "['b']", "['a', 'b']"] * 10 + ["a"], separator=None)
        assert dataset.info.counts.quarantined == {"not a list of labels": 1}

    def test_a_sample_is_drawn_among_all_rows(self, tmp_path):
        settings = build({"data.sample": 0.5, "data.label_separator": "|"})
        dataset = prepare(write(tmp_path, MIXED), out=tmp_path / "run", settings=settings)
        drawn = pd.read_csv(tmp_path / "data.csv").sample(frac=0.5, random_state=42)
        assert {int(row) for split in dataset.splits().values() for row in split.ids} == set(drawn.index)


class TestWrongUse:
    def test_a_separator_that_never_occurs(self, tmp_path):
        assert refused(DataError, tmp_path, ["a;b", "a", "b"] * 10, separator="|") == (
            "The separator '|' stands between no two labels of the column 'label'; its cells are 'a;b', 'a', 'b'.\n"
            "Name the right one with --label-separator, or leave it out where every row has one label."
        )

    def test_an_empty_separator(self, tmp_path):
        with pytest.raises(UsageError) as error:
            build({"data.label_separator": ""})
        assert error.value.problems == ("data.label_separator is '', expected a text of at least 1 character.",)

    def test_no_row_with_a_label(self, tmp_path):
        assert refused(DataError, tmp_path, ["[]"] * 12, separator=None) == (
            f"None of the 12 rows of {tmp_path / 'data.csv'} has a label.\nName another label column with --label."
        )

    def test_one_label_only(self, tmp_path):
        assert refused(DataError, tmp_path, ["['a']", "[]"] * 12, separator=None) == (
            f"{tmp_path / 'data.csv'} has one label only, 'a'; at least two are needed.\n"
            "For a yes-or-no question give each row one of two labels instead, for instance yes and no."
        )

    def test_labels_with_a_single_row(self, tmp_path):
        assert refused(DataError, tmp_path, [*MIXED, "lone|a"]) == (
            "Every label needs at least 3 different texts, one for each split to be made; in "
            f"{tmp_path / 'data.csv'} some have fewer:\n"
            "  - the label 'lone' has one text only (line 62)\n"
            "Add rows or correct the label; --labels A,B uses these labels only and sets all other rows aside."
        )

    def test_no_row_left(self, tmp_path):
        path = tmp_path / "data.csv"
        path.write_text("text,label\n" + ",a|b\n" * 4, encoding="utf-8")
        with pytest.raises(DataError) as error:
            prepare(
                path, out=tmp_path / "run", text="text", label="label", settings=build({"data.label_separator": "|"})
            )
        assert str(error.value).splitlines()[0] in (
            f"No row of {path} is left.", "The separator '|' stands between no two labels of the column 'label'; its cells are empty.",
        )  # fmt: skip


class TestStratification:
    @pytest.mark.parametrize("seed", range(5))
    def test_labels_keep_their_shares_and_every_split_has_each(self, seed):
        generator = np.random.default_rng(seed)
        common = generator.normal(size=(800, 1))
        truth = common + generator.normal(size=(800, 12)) > np.linspace(0.5, 3.3, 12)
        sets: dict = {}
        numbers = np.array([sets.setdefault(tuple(np.flatnonzero(row).tolist()), len(sets)) for row in truth], np.int32)
        parts = stratify(numbers, LabelSets(list(sets)), (0.1, 0.1, 0.8), seed)
        assert np.abs(np.bincount(parts) - [80, 80, 640]).max() <= 4
        for split, share in enumerate((0.1, 0.1, 0.8)):
            counts, had = truth[parts == split].sum(axis=0), truth.sum(axis=0)
            assert np.abs(counts - share * had).max() <= 2
            assert (counts[had >= 3] > 0).all()
        assert (parts == stratify(numbers, LabelSets(list(sets)), (0.1, 0.1, 0.8), seed)).all()
        assert (parts != stratify(numbers, LabelSets(list(sets)), (0.1, 0.1, 0.8), seed + 1)).any()

    def test_the_training_split_gets_every_label(self):
        """Two labels with one row each, in the same row, which the greedy rule alone would give away."""
        sets = LabelSets([(0,), (1, 2), ()])
        numbers = np.array([0] * 20 + [1] + [2] * 9, np.int32)
        parts = stratify(numbers, sets, (0.45, 0.45, 0.1), 1)
        assert parts[20] == 2

    def test_rows_without_labels_are_shared_out_too(self):
        parts = stratify(np.array([1] * 50 + [0] * 50, np.int32), LabelSets([(0,), ()]), (0.1, 0.1, 0.8), 1)
        assert np.bincount(parts[:50]).tolist() == np.bincount(parts[50:]).tolist() == [5, 5, 40]


@pytest.fixture(scope="module")
def several(tiny_model, machine, tmp_path_factory):
    """A tiny model trained on rows with several labels; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("several")
    texts, labels = texts_and_labels()
    pd.DataFrame({"text": texts, "label": labels}).to_json(folder / "data.jsonl", orient="records", lines=True)
    dataset = prepare(folder / "data.jsonl", out=folder / "run", settings=build({"data.validation_share": 0.2}))
    chosen = QUICK | {"training.epochs": 12, "data.validation_share": 0.2}
    plan = planning.plan(dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
    planning.save_plan(dataset.folder / storage.PLAN, plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.saving, "reload_difference", reload_in_this_process)
        return ToyRun(dataset.folder, dataset, plan, training.train(plan, dataset))


@pytest.fixture(scope="module")
def scored(several):
    return evaluation.evaluate(several.folder, several.dataset, resamples=50)


class TestTraining:
    def test_it_learns_and_checkpoints_are_chosen_by_f1(self, several):
        assert several.plan.settings.training.best_metric == "f1_macro"
        f1 = [entry["eval_f1_macro"] for entry in several.run.history if "eval_f1_macro" in entry]
        assert several.run.best_metric == max(f1) > 0.8
        assert several.run.reload_difference < 1e-6

    def test_the_thresholds_in_the_bundle_fit_the_validation_rows(self, several):
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        split = several.dataset.validation
        expected = thresholds.fit(label_matrix(split.labels, 3), classifier.predict_proba(split.texts))
        assert classifier.bundle.thresholds == pytest.approx(expected, abs=1e-6)
        assert classifier.bundle.task == "multi_label"

    @pytest.mark.parametrize(
        "extra",
        [
            {"compute.engine": "transformers"},
            {"compute.tokens_per_micro_batch": 0},
            {"loss.class_weights": "auto", "loss.name": "focal"},
            WINDOWS | {"loss.class_weights": "auto"},
            WINDOWS | {"compute.engine": "transformers"},
        ],
    )
    def test_other_ways_to_train(self, several, tiny_model, machine, tmp_path, fast_reload, extra):
        chosen = QUICK | {"training.epochs": 1, "data.validation_share": 0.2} | extra
        plan = planning.plan(several.dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
        run = training.train(plan, several.dataset, folder=tmp_path)
        assert run.reload_difference < 1e-6
        assert {"eval_f1_macro", "eval_f1_micro", "eval_accuracy", "eval_loss"} <= set(run.history[-1])


class TestWindows:
    """Long texts with several labels: the mean of the windows' logits decides, at the fitted thresholds."""

    @pytest.fixture(scope="class")
    def classifier(self, several, tiny_model, machine, tmp_path_factory):
        chosen = QUICK | WINDOWS | {"training.epochs": 2, "data.validation_share": 0.2}
        plan = planning.plan(several.dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
        folder = tmp_path_factory.mktemp("windows")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.saving, "reload_difference", reload_in_this_process)
            training.train(plan, several.dataset, folder=folder)
        return Classifier.from_pretrained(folder, device="cpu")

    def test_probabilities_are_those_of_the_mean_logits(self, classifier, several):
        text = max(several.dataset.test.texts, key=len)
        ids = classifier.tokenizer.encode([text]).ids[0]
        assert len(ids) == 3 * 8
        inputs = encoder.collate(windows_of(ids, 8), 0, limit=8, packed_rows=encoder.runs_packed(classifier.model))
        with torch.no_grad():
            logits = classifier.model(**inputs).logits.double().mean(0).numpy()
        known = Calibration(2.5, 30, 10, 0.5, 0.1, 0.01, "kept")
        warm = Classifier(classifier.model, classifier.tokenizer, replace(classifier.bundle, calibration=known))
        for each in (classifier, warm):
            expected = 1 / (1 + np.exp(-logits / each.bundle.temperature))
            np.testing.assert_allclose(each.predict_proba([text])[0], expected, atol=1e-6)
        np.testing.assert_allclose(warm.logits([text])[0], logits, atol=1e-6)

    def test_thresholds_fit_what_the_windows_say(self, classifier, several):
        rows = several.dataset.validation
        expected = thresholds.fit(label_matrix(rows.labels, 3), classifier.predict_proba(rows.texts))
        assert classifier.bundle.thresholds == pytest.approx(expected, abs=1e-6)

    def test_explanations(self, classifier, several):
        text = max(several.dataset.test.texts, key=len)
        (explained,) = classifier.explain([text], label="fear")
        assert explained.probability == pytest.approx(classifier.predict([text])[0].probabilities["fear"], abs=1e-6)
        strongest = explained.strongest[0]
        left = classifier.predict_proba([explained.without(strongest)])[0, classifier.label_names.index("fear")]
        assert strongest.probability == pytest.approx(left, abs=1e-6)


class TestPrediction:
    def test_labels_are_given_from_their_thresholds_on(self, several):
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        texts = [*several.dataset.test.texts, "film"]
        chosen = classifier.predict_proba(texts) >= np.array(classifier.bundle.thresholds)
        for prediction, row in zip(classifier.predict(texts), chosen, strict=True):
            assert set(prediction.labels) == {
                name for name, given in zip(classifier.label_names, row, strict=True) if given
            }
            assert list(prediction.labels) == sorted(
                prediction.labels, key=lambda name: -prediction.probabilities[name]
            )
            assert prediction.label == (prediction.labels[0] if prediction.labels else "")
            assert prediction.probability == max(prediction.probabilities.values())

    def test_thresholds_for_other_labels_are_refused(self, several, tmp_path):
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        path = classifier.save_pretrained(tmp_path / "saved") / "textlora.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(document | {"thresholds": [0.5, 0.5]}), encoding="utf-8")
        with pytest.raises(UsageError) as error:
            Classifier.from_pretrained(tmp_path / "saved")
        assert str(error.value) == f"{path} is damaged: 2 thresholds for 3 labels.\nRun `textlora train` again."

    def test_a_single_label_is_the_only_one(self, toy_run):
        found = Classifier.from_pretrained(toy_run.folder, device="cpu").predict(["good film"])[0]
        assert found.labels == (found.label,)

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
    def test_scored_files_hold_lists(self, several, tmp_path, suffix):
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        texts = list(several.dataset.test.texts)
        pd.DataFrame({"text": [*texts, None], "number": 1}).to_csv(tmp_path / "in.csv", index=False)
        score_file(classifier, tmp_path / "in.csv", tmp_path / f"out{suffix}", text="text")
        reading = {
            ".csv": pd.read_csv,
            ".jsonl": lambda path: pd.read_json(path, lines=True),
            ".parquet": pd.read_parquet,
        }
        frame = reading[suffix](tmp_path / f"out{suffix}")
        found = [json.loads(cell) if suffix == ".csv" else list(cell) for cell in frame["prediction"][:-1]]
        assert found == [list(prediction.labels) for prediction in classifier.predict(texts)]
        assert pd.isna(frame["prediction"].iloc[-1])
        assert list(frame.columns)[2:5] == ["prediction", "probability", "probability_anger"]

    def test_scored_lists_can_be_prepared_again(self, several, tmp_path):
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        several_texts = pd.DataFrame({"text": list(several.dataset.train.texts)})
        several_texts.to_csv(tmp_path / "in.csv", index=False)
        score_file(classifier, tmp_path / "in.csv", tmp_path / "out.csv", text="text")
        dataset = prepare(tmp_path / "out.csv", out=tmp_path / "again", text="text", label="prediction")
        assert dataset.task == "multi_label"

    def test_on_the_command_line(self, several):
        text = "lovely good good hated bad film"
        shown = call("predict", str(several.folder), text, "qqq")
        assert shown.code == 0
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        first = classifier.predict([text])[0]
        told = ", ".join(f"{name} {first.probabilities[name]:.3f}" for name in first.labels) or "(no label)"
        assert shown.out.splitlines()[0].startswith(told)
        document = json.loads(call("predict", str(several.folder), text, "--json").out)
        assert document["predictions"][0]["labels"] == list(first.labels)

    def test_explanations_on_the_command_line_name_their_label(self, several):
        text = "lovely good good hated bad film"
        lines = call("predict", str(several.folder), text, "--explain").out.splitlines()
        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        (explained,) = classifier.explain([text])
        probabilities = classifier.predict([text])[0].probabilities
        assert explained.label == max(probabilities, key=probabilities.__getitem__)
        assert lines[0].endswith(text)
        assert lines[1] == f"  What carried {explained.label}, the most probable label:"
        assert f"  {explained.probability:.3f} -> " in lines[2]


class TestDecide:
    def test_another_goal_for_every_label(self, several, scored, tmp_path):
        folder = shutil.copytree(several.folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
        done = redeciding.decide(folder, goal="precision@recall=0.9")
        classifier = Classifier.from_pretrained(folder, device="cpu")
        rows = several.dataset.validation
        truth, table = label_matrix(rows.labels, 3), classifier.predict_proba(rows.texts)
        expected = thresholds.fit(truth, table, goals.parse("precision@recall=0.9"))
        assert classifier.bundle.thresholds == pytest.approx(expected, abs=1e-6)
        assert tuple(done.thresholds.values()) == tuple(one.threshold for one in done.evaluation.errors)
        assert done.thresholds_goal == done.evaluation.trust.thresholds_goal == "precision@recall=0.9"
        given = classifier.decide(table)
        assert ((given & truth).sum(axis=0) / truth.sum(axis=0) >= 0.9).all()
        assert redeciding.decide(folder).thresholds_goal == "precision@recall=0.9"
        shown = call("decide", str(folder), "--goal", "f1")
        assert "thresholds for f1: anger " in shown.out
        with pytest.raises(UsageError) as error:
            redeciding.decide(folder, error_rate=0.1, positive="joy")
        assert error.value.problems == (
            "The positive label is 'joy', but only data with two labels have a positive one.",
            "The error rate is 0.1, but only rows with exactly one label can be left without an answer.",
        )


class TestEvaluation:
    def test_the_figures_are_those_of_the_decisions(self, several, scored):
        from sklearn.metrics import f1_score, hamming_loss

        classifier = Classifier.from_pretrained(several.folder, device="cpu")
        truth = label_matrix(several.dataset.test.labels, 3)
        chosen = classifier.decide(classifier.predict_proba(several.dataset.test.texts))
        assert scored.metrics["f1_macro"].value == pytest.approx(
            f1_score(truth, chosen, average="macro", zero_division=0)
        )
        assert scored.metrics["hamming_loss"].value == pytest.approx(hamming_loss(truth, chosen))
        assert scored.metrics["accuracy"].value == pytest.approx((truth == chosen).all(axis=1).mean())
        assert [(e.found, e.missed, e.wrong) for e in scored.errors] == [
            ((t & c).sum(), (t & ~c).sum(), (~t & c).sum()) for t, c in zip(truth.T, chosen.T, strict=True)
        ]
        assert tuple(e.threshold for e in scored.errors) == classifier.bundle.thresholds
        assert (scored.task, scored.confusion, scored.headline) == ("multi_label", (), "f1_macro")

    def test_the_baselines_decide_the_same_way(self, scored):
        names = [baseline.name for baseline in scored.baselines]
        assert names == ["label frequencies", "TF-IDF + logistic regression"]
        # Words give the labels away.
        assert scored.baselines[1].metrics["f1_macro"].value > 0.9
        for baseline in scored.baselines:
            gain = scored.metrics["f1_macro"].value - baseline.metrics["f1_macro"].value
            assert baseline.advantage.value == pytest.approx(gain)

    def test_predictions_are_written_as_lists(self, several, scored):
        table = pq.read_table(several.folder / storage.PREDICTIONS).to_pylist()
        names = several.dataset.label_names
        assert [row["label"] for row in table] == [[names[k] for k in labels] for labels in several.dataset.test.labels]
        assert all(isinstance(row["prediction"], list) for row in table)

    def test_mistakes_name_all_labels(self, several, scored):
        wrong = {mistake.id for mistake in scored.mistakes}
        assert len(wrong) == round((1 - scored.metrics["accuracy"].value) * scored.rows)
        assert all(mistake.label != mistake.predicted for mistake in scored.mistakes)

    def test_what_carried_a_mistake_is_told_of_its_surest_wrong_answer(self, several, tmp_path):
        loaded = Classifier.from_pretrained(several.folder, device="cpu")
        wrong = replace(loaded.bundle, thresholds=(0.001, 0.999, 0.999))
        classifier = Classifier(loaded.model, loaded.tokenizer, wrong)
        found = evaluation.evaluate(
            tmp_path, several.dataset, classifier=classifier, baseline=False, resamples=10
        ).mistakes
        assert {mistake.answer.split(": ")[1] for mistake in found} == {"yes", "no"}
        for mistake in found[:3]:
            name, answer = mistake.answer.split(": ")
            assert (name in mistake.predicted) == (answer == "yes") != (name in mistake.label)
            texts = [mistake.text, *(without(mistake.text, [(span.start, span.end)]) for span in mistake.spans)]
            column = classifier.predict_proba(texts)[:, classifier.label_names.index(name)]
            expected = column if answer == "yes" else 1 - column
            assert [mistake.probability, *(span.probability for span in mistake.spans)] == pytest.approx(
                expected.tolist(), abs=1e-5
            )

    def test_it_is_read_back(self, several, scored):
        assert evaluation.load_evaluation(several.folder) == scored

    def test_the_report_speaks_of_labels(self, several, scored):
        page = reporting.report(
            several.folder, dataset=several.dataset, plan=several.plan, run=several.run, evaluation=scored
        )
        html, text = (
            page.read_text(encoding="utf-8"),
            (several.folder / storage.REPORT_MARKDOWN).read_text(encoding="utf-8"),
        )
        assert "F1, mean of the labels, on" in html
        assert "Given wrongly" in html
        assert "| Label | Threshold | Found | Missed | Given wrongly |" in text
        assert "points of macro F1" in text
        assert "Subset accuracy" in text
        assert "predicted</th>" not in html  # no confusion matrix
        card = (several.folder / storage.MODEL_CARD).read_text(encoding="utf-8")
        assert "It gives each text any of 3 labels" in card
        assert "print(prediction.labels, prediction.probability)" in card
        assert "- multi-label" in card

    def test_the_terminal_shows_rows_and_scores(self, several):
        shown = call("evaluate", str(several.folder)).out
        assert "all labels right" in shown
        assert "Hamming loss" in shown


def test_the_export_says_that_there_are_several_labels(several, tmp_path):
    from transformers import pipeline

    exported = exporting.export(several.folder, out=tmp_path / "hf")
    config = json.loads((exported.folder / "config.json").read_text(encoding="utf-8"))
    classifier = Classifier.from_pretrained(several.folder, device="cpu")
    assert config["problem_type"] == "multi_label_classification"
    assert config["textlora"]["thresholds"] == dict(
        zip(classifier.label_names, classifier.bundle.thresholds, strict=True)
    )
    text = several.dataset.test.texts[0]
    found = pipeline("text-classification", str(exported.folder), top_k=None)([text])[0]
    expected = classifier.predict([text])[0].probabilities
    assert {item["label"]: item["score"] for item in found} == pytest.approx(expected, abs=1e-4)


def test_prepare_from_python_and_the_command_line_agree(tmp_path):
    path = write(tmp_path, MIXED)
    dataset = api.prepare(path, out=tmp_path / "python", label_separator="|")
    shown = call(
        "prepare", str(path), "--label-separator", "|", "--out", str(tmp_path / "line"), "--base-model", "embedded"
    )
    assert shown.code == 0
    assert load_dataset(tmp_path / "line").fingerprint == dataset.fingerprint
    assert "train         32    32    48" in shown.out
