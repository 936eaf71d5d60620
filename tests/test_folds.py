"""Cross-validation from end to end: trained without the fold, scored on it, pooled, resumed, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.conftest import QUICK, reload_in_this_process, strike
from tests.test_cli import call
from tests.test_multilabel import texts_and_labels
from textlora import api, evaluation, metrics, planning, prefix, preparation, storage, training
from textlora.classifier import Classifier
from textlora.errors import Interrupted
from textlora.folds import RANKING, cross_validate, folds_of, load_folds
from textlora.preparation.crossing import fold_dataset, make_folds

ASSIGNMENTS = {**QUICK, "training.epochs": 1}
OPTIONS = [word for name, value in ASSIGNMENTS.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module", autouse=True)
def quick_reload():
    """Check the reload in this process: these tests train a dozen times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.saving, "reload_difference", reload_in_this_process)
        yield


@pytest.fixture(scope="module")
def fitted(toy_csv, tiny_model, tmp_path_factory):
    """A run folder with three folds; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("folds") / "run"
    api.fit(toy_csv, base_model=str(tiny_model), out=folder, assignments=ASSIGNMENTS, folds=3)
    return folder


def planned(folder):
    return planning.load_plan(folder / storage.PLAN), preparation.load_dataset(folder)


class TestScores:
    def test_a_fold_is_scored_by_a_training_without_it(self, fitted, tmp_path):
        plan, dataset = planned(fitted)
        fold = make_folds(dataset, 3).folds[1]
        data = fold_dataset(dataset, fold, number=2, of=3, folder=tmp_path)
        training.train(replace(plan, dataset_fingerprint=data.fingerprint), data, folder=tmp_path)
        expected = Classifier.from_pretrained(tmp_path).predict_proba(data.test.texts)
        table = pq.read_table(fitted / storage.OUT_OF_FOLD).to_pandas()
        found = table[table["fold"] == 2]
        assert list(found["id"]) == list(data.test.ids)
        np.testing.assert_allclose(found[["probability_negative", "probability_positive"]], expected)
        run = load_folds(fitted).runs[1]
        assert (run.train_rows, run.validation_rows, run.rows) == (
            len(data.train),
            len(data.validation),
            len(data.test),
        )
        assert run.metrics == pytest.approx(metrics.point_scores(data.test.labels, expected))

    def test_every_row_but_the_test_has_a_prediction_in_its_order(self, fitted):
        _, dataset = planned(fitted)
        table = pq.read_table(fitted / storage.OUT_OF_FOLD).to_pandas()
        assert list(table["id"]) == [*dataset.train.ids, *dataset.validation.ids]
        assert list(table["text"]) == [*dataset.train.texts, *dataset.validation.texts]
        assert not set(table["id"]) & set(dataset.test.ids)

    def test_pooled_scores_are_those_of_all_predictions(self, fitted):
        found = load_folds(fitted)
        table = pq.read_table(fitted / storage.OUT_OF_FOLD).to_pandas()
        assert found.rows == len(table)
        assert found.pooled["accuracy"].value == np.mean(table["label"] == table["prediction"])
        assert found.pooled["accuracy"].low < found.pooled["accuracy"].value < found.pooled["accuracy"].high
        assert not set(RANKING) & set(found.pooled)
        assert set(RANKING) <= set(found.metrics)

    def test_mean_and_deviation_are_those_of_the_folds(self, fitted):
        found = load_folds(fitted)
        values = [run.metrics["log_loss"] for run in found.runs]
        spread = found.metrics["log_loss"]
        assert (spread.mean, spread.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))

    def test_the_run_itself_is_as_without_folds(self, fitted, toy_csv, tiny_model, tmp_path):
        api.fit(toy_csv, base_model=str(tiny_model), out=tmp_path / "run", assignments=ASSIGNMENTS)
        name = "adapter/adapter_model.safetensors"
        assert (fitted / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
        assert not (fitted / storage.FOLD_RUNS).exists()

    def test_all_trainings_share_one_cache_of_frozen_layers(self, toy_run, tmp_path, monkeypatch):
        monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
        settings = toy_run.plan.settings
        settings = settings.model_copy(
            update={
                "lora": settings.lora.model_copy(update={"top_layers": 1}),
                "compute": settings.compute.model_copy(update={"prefix_cache": True}),
            }
        )
        plan, dataset = replace(toy_run.plan, settings=settings), replace(toy_run.dataset, folder=tmp_path / "run")
        training.train(plan, dataset)
        cross_validate(plan, dataset, 2)
        assert len(prefix.caches()) == 1


class TestGoingOn:
    def test_a_repeated_call_trains_nothing(self, fitted, toy_csv, tiny_model, tmp_path):
        folder = shutil.copytree(fitted, tmp_path / "run")
        told = []
        named = {"base_model": str(tiny_model), "assignments": ASSIGNMENTS, "folds": 3}
        api.fit(toy_csv, out=folder, progress=lambda *step: told.append(step[0]), **named)
        assert "3 folds" not in told
        assert load_folds(folder) == load_folds(fitted)

    def test_finished_folds_are_taken_over(self, fitted, tmp_path):
        plan, dataset = planned(fitted)
        dataset = replace(dataset, folder=tmp_path / "run")

        def when(stage, done, *_):
            return stage == "3 folds" and done == plan.estimate.steps + 2

        with pytest.raises(Interrupted) as error:
            cross_validate(plan, dataset, 3, progress=strike(when))
        assert error.value.hint == "Go on with: the same call once more"
        before = (tmp_path / "run" / "folds" / "1" / "predictions.parquet").stat().st_mtime_ns
        assert not (tmp_path / "run" / "folds" / "1" / "adapter").exists()
        stamps = []

        def look(stage, done, total, note):
            stamps.append((tmp_path / "run" / "folds" / "1" / "predictions.parquet").stat().st_mtime_ns)

        again = cross_validate(plan, dataset, 3, progress=look)
        assert set(stamps) == {before}
        ours, theirs = ([run.metrics for run in found.runs] for found in (again, load_folds(fitted)))
        assert ours == theirs

    def test_other_data_make_other_folds(self, fitted):
        run = training.load_run(fitted)
        assert folds_of(run) == load_folds(fitted)
        assert folds_of(replace(run, dataset_fingerprint="other")) is None


class TestTold:
    def test_terminal_json_and_report(self, fitted, toy_csv, tiny_model, tmp_path):
        out = shutil.copytree(fitted, tmp_path / "run")
        arguments = ("fit", toy_csv, "--base-model", tiny_model, "--out", out, *OPTIONS, "--folds", "3")
        done = call(*arguments)
        assert done.code == 0, done.err
        for words in (
            "Beside this training 3 more for the folds of 108 training and validation rows (the 12 test rows take no part): ",
            "each scored by a classifier that has not seen it; the test split took no part",
            "their deviation makes no interval",
        ):
            assert words in done.out, words
        page, text = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
        for document in (page, text):
            assert "Cross-validation with 3 folds: accuracy is" in document
            assert "The test split took no part." in document
        assert 'href="#folds"' in page
        assert [*json.loads(call(*arguments, "--json").out)] == [
            "dataset",
            "plan",
            "run",
            "evaluation",
            "folds",
            "report",
        ]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ("--folds", "1"),
                "--folds 1 is no cross-validation: 2 to 100 folds are expected.\nFor instance --folds 5.",
            ),
            (
                ("--folds", "101"),
                "--folds 101 is no cross-validation: 2 to 100 folds are expected.\nFor instance --folds 5.",
            ),
            (
                ("--folds", "5", "--seeds", "3"),
                "--seeds 3 and --folds 5 answer different questions, and are not done together.\n"
                "--seeds shows the chance in training, --folds the chance in the choice of rows: give one of them.",
            ),
        ],
    )
    def test_wrong_numbers_are_refused_before_anything_is_done(self, options, message, toy_csv, tmp_path):
        done = call("fit", toy_csv, "--out", tmp_path / "run", *options)
        assert (done.code, done.err) == (2, f"error: {message}\n")
        assert not (tmp_path / "run").exists()

    def test_what_cannot_be_divided_is_refused_before_anything_is_trained(self, toy_csv, tiny_model, tmp_path):
        out = tmp_path / "run"
        done = call("fit", toy_csv, "--base-model", tiny_model, "--out", out, *OPTIONS, "--folds", "60")
        assert done.code == 3
        assert "60 folds need 60 rows of every label among the training and validation rows" in done.err
        assert not (out / "plan.toml").exists()


def test_rows_with_several_labels(tiny_model, tmp_path):
    texts, labels = texts_and_labels(120)
    data = pd.DataFrame({"text": texts, "label": labels})
    api.fit(data, base_model=str(tiny_model), out=tmp_path / "run", assignments=ASSIGNMENTS, folds=2)
    found = load_folds(tmp_path / "run")
    assert found.headline == "f1_macro"
    table = pq.read_table(tmp_path / "run" / storage.OUT_OF_FOLD).to_pandas()
    right = [set(had) == set(given) for had, given in zip(table["label"], table["prediction"], strict=True)]
    assert found.pooled["accuracy"].value == pytest.approx(np.mean(right))
    assert "Cross-validation with 2 folds: macro F1 is" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert evaluation.load_evaluation(tmp_path / "run").task == "multi_label"
