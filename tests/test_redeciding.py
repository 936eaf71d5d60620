"""decide(): another decision of a finished run: bundle, evaluation, report, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import textlora
from tests.conftest import EXAMPLE, QUICK
from tests.test_cli import call
from textlora import evaluation, planning, redeciding, reporting, storage, training
from textlora.classifier import Classifier
from textlora.decision import Calibration
from textlora.errors import TextloraWarning, UsageError
from textlora.preparation import load_dataset, prepare
from textlora.scoring import score_file
from textlora.settings import build
from textlora.types import Split


@pytest.fixture(scope="module")
def finished(tiny_model, machine, tmp_path_factory):
    """A tiny model on 400 texts with much doubt, evaluated and reported; not to be changed by tests."""
    root = tmp_path_factory.mktemp("decide")
    generator = np.random.default_rng(4)
    good, bad, other = ["good", "great", "fine"], ["bad", "dull", "awful"], ["film", "plot", "music", "story", "end"]
    rows = []
    for number in range(400):
        label = generator.random() < 0.4
        hints = [str(generator.choice(good if label ^ (generator.random() < 0.25) else bad)) for _ in range(2)]
        words = [*hints, *map(str, generator.choice(other, 6)), str(number)]
        rows.append((" ".join(map(str, generator.permutation(words))), "yes" if label else "no"))
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(root / "data.csv", index=False)
    shares = {"data.validation_share": 0.3, "data.test_share": 0.2, "data.near_duplicates": 0}
    dataset = prepare(root / "data.csv", out=root / "run", settings=build(shares))
    plan = planning.plan(dataset, base_model=str(tiny_model), assignments=QUICK | shares, machine=machine)
    planning.save_plan(dataset.folder / storage.PLAN, plan)
    run = training.train(plan, dataset)
    measured = evaluation.evaluate(dataset.folder, dataset, resamples=20)
    reporting.report(dataset.folder, dataset=dataset, plan=plan, run=run, evaluation=measured)
    return dataset.folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setitem(evaluation.evaluate.__kwdefaults__, "resamples", 20)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestDecide:
    def test_training_looks_for_a_temperature_and_decides_as_usual(self, finished):
        classifier = Classifier.from_pretrained(finished, device="cpu")
        assert isinstance(classifier.bundle.calibration, Calibration)
        assert classifier.bundle.calibration.rows == 120
        assert (classifier.bundle.decision, classifier.bundle.abstention) == (None, None)
        found = evaluation.load_evaluation(finished).trust
        assert found.calibration == classifier.bundle.calibration
        assert sum(part.rows for part in found.reliability.bins) == 80

    def test_bundle_evaluation_and_report_follow_the_goal(self, run):
        stages = []
        done = redeciding.decide(
            run, goal="cost:FP=1,FN=9", error_rate=0.2, progress=lambda stage, *_: stages.append(stage)
        )
        assert set(stages) == {"calibrate", "evaluate"}
        classifier = Classifier.from_pretrained(run, device="cpu")
        decision = classifier.bundle.decision
        assert (decision, classifier.bundle.abstention) == (done.decision, done.abstention)
        assert (decision.goal, decision.positive, decision.rows) == ("cost:FP=1,FN=9", "yes", 120)
        assert done.evaluation == evaluation.load_evaluation(run)
        assert done.evaluation.run_fingerprint == classifier.fingerprint
        assert done.evaluation.trust.operation.decision == decision
        dataset_texts = pd.read_parquet(run / storage.PREDICTIONS)
        given = np.where(dataset_texts["probability_yes"] >= decision.threshold, "yes", "no")
        assert (dataset_texts["prediction"] == given).all()
        right = (dataset_texts["label"] == given).mean()
        assert done.evaluation.metrics["accuracy"].value == right
        assert sum(map(sum, done.evaluation.confusion)) == 80
        page = (run / storage.REPORT_HTML).read_text(encoding="utf-8")
        assert "cost:FP=1,FN=9" in page
        assert "Not sure</h3>" in page
        assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []

    def test_files_and_texts_get_the_same_answers(self, run, tmp_path):
        redeciding.decide(run, goal="recall@precision=0.6", error_rate=0.1)
        classifier = Classifier.from_pretrained(run, device="cpu")
        texts = [*pd.read_parquet(run / storage.PREDICTIONS)["text"], "good bad"]
        found = classifier.predict(texts)
        table = classifier.predict_proba(texts)
        least, threshold = classifier.bundle.abstention.least_probability, classifier.bundle.decision.threshold
        for prediction, row in zip(found, table, strict=True):
            assert prediction.label == ("yes" if row[1] >= threshold else "no")
            assert prediction.probability == prediction.probabilities[prediction.label]
            assert set(prediction.labels) == {name for name, p in zip(("no", "yes"), row, strict=True) if p >= least}
            assert prediction.abstains == (prediction.labels != (prediction.label,))
        assert {prediction.abstains for prediction in found} == {True, False}
        pd.DataFrame({"text": [*texts, None], "number": 1}).to_csv(tmp_path / "in.csv", index=False)
        for name, reading in (("o.csv", pd.read_csv), ("o.parquet", pd.read_parquet)):
            scored = score_file(classifier, tmp_path / "in.csv", tmp_path / name, text="text")
            frame = reading(tmp_path / name)
            assert list(frame.columns) == [
                "text", "number", "prediction", "probability", "not_sure", "possible_labels", "probability_no",
                "probability_yes", "truncated",
            ]  # fmt: skip
            assert frame["prediction"][:-1].tolist() == [prediction.label for prediction in found]
            assert frame["not_sure"][:-1].tolist() == [prediction.abstains for prediction in found]
            left = [json.loads(cell) if name == "o.csv" else list(cell) for cell in frame["possible_labels"][:-1]]
            assert left == [list(prediction.labels) for prediction in found]
            assert pd.isna(frame["not_sure"].iloc[-1])
            assert scored.not_sure == sum(prediction.abstains for prediction in found)

    def test_the_given_label_is_explained(self, run):
        redeciding.decide(run, goal="cost:FP=1,FN=9")
        classifier = Classifier.from_pretrained(run, device="cpu")
        texts = pd.read_parquet(run / storage.PREDICTIONS)["text"].tolist()
        found = classifier.predict(texts)
        unlikely = [text for text, one in zip(texts, found, strict=True) if one.probability < 0.5][:3]
        assert unlikely
        for explained, prediction in zip(classifier.explain(unlikely), classifier.predict(unlikely), strict=True):
            assert explained.label == prediction.label == "yes"
            assert explained.probability == pytest.approx(prediction.probability, abs=1e-6)
        assert classifier.explain(unlikely[:1], label="no")[0].label == "no"
        assert classifier.explain([]) == []

    def test_what_is_not_given_stays_and_can_be_taken_back(self, run):
        redeciding.decide(run, goal="f1", positive="no", error_rate=0.2)
        done = redeciding.decide(run, goal="cost:FP=2,FN=1")
        assert (done.decision.positive, done.abstention.error_rate) == ("no", 0.2)
        done = redeciding.decide(run, error_rate=0)
        assert (done.decision.goal, done.abstention) == ("cost:FP=2,FN=1", None)
        done = redeciding.decide(run, goal="accuracy")
        assert (done.decision, done.evaluation.trust.operation) == (None, None)

    def test_the_usual_decision_is_that_of_training(self, run, finished):
        before = json.loads((finished / "adapter" / "textlora.json").read_text())
        redeciding.decide(run)
        assert json.loads((run / "adapter" / "textlora.json").read_text()) == before
        assert evaluation.load_evaluation(run).metrics == evaluation.load_evaluation(finished).metrics

    def test_a_run_without_evaluation_gets_none(self, run):
        for name in (storage.EVALUATION, storage.REPORT_HTML):
            (run / name).unlink()
        done = textlora.decide(training.load_run(run), goal="f1")
        assert (done.evaluation, done.report) == (None, None)
        assert not (run / storage.EVALUATION).exists()
        assert Classifier.from_pretrained(run).bundle.decision == done.decision

    def test_bundles_of_older_versions_decide_as_before(self, run):
        path = run / "adapter" / "textlora.json"
        document = json.loads(path.read_text())
        for name in ("calibration", "decision", "abstention", "thresholds_goal"):
            del document[name]
        path.write_text(json.dumps(document))
        old = Classifier.from_pretrained(run, device="cpu")
        logits = old.logits(["good film", "bad"])
        np.testing.assert_allclose(np.log(old.predict_proba(["good film", "bad"])), logits - np.logaddexp.reduce(logits, axis=1)[:, None], atol=1e-12)  # fmt: skip
        assert not any(prediction.abstains for prediction in old.predict(["good film", "bad"]))
        assert redeciding.decide(run).calibration is not None

    def test_evaluations_of_older_versions_are_read_and_reported(self, run):
        path = run / storage.EVALUATION
        document = json.loads(path.read_text())
        del document["trust"]
        path.write_text(json.dumps(document))
        assert evaluation.load_evaluation(run).trust is None
        assert call("report", str(run)).code == 0
        assert 'id="probabilities"' not in (run / storage.REPORT_HTML).read_text(encoding="utf-8")


class TestRefusals:
    def refused(self, run, **named):
        before = contents(run)
        with pytest.raises(UsageError) as error:
            redeciding.decide(run, **named)
        assert contents(run) == before
        return str(error.value)

    def test_what_cannot_be_read(self, run):
        assert self.refused(run, goal="recall@precision=95", error_rate=0.7) == (
            "Cannot decide like this:\n"
            "  - The goal is 'recall@precision=95', expected a share above 0 and at most 1 behind recall@precision=, for "
            "instance recall@precision=0.9.\n"
            "  - The error rate is 0.7, expected a number above 0 and below 0.5, or 0 for none."
        )

    def test_what_the_rows_do_not_allow(self, run):
        assert self.refused(run, goal="f1", positive="maybe", error_rate=0.001) == (
            "Cannot decide like this:\n"
            "  - The positive label is 'maybe', which is no label. Labels: no, yes.\n"
            "  - An error rate of 0.001 needs at least 999 validation rows; these are 120, which are enough for a rate of 0.009."
        )

    def test_a_goal_out_of_reach(self, run):
        message = self.refused(run, goal="recall@precision=1")
        assert message.startswith("No threshold reaches a precision of 1 on the 120 validation rows; the highest is 0.")

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(UsageError) as error:
            redeciding.decide(tmp_path / "none")
        assert str(error.value).startswith(f"There is no folder {tmp_path / 'none'}.")

    def test_a_bundle_without_its_data(self, run, tmp_path):
        classifier = Classifier.from_pretrained(run, device="cpu")
        folder = classifier.save_pretrained(tmp_path / "bundle")
        with pytest.raises(UsageError, match=r"dataset\.json"):
            redeciding.decide(folder)

    def test_a_damaged_bundle(self, run):
        redeciding.decide(run, goal="f1")
        path = run / "adapter" / "textlora.json"
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "decision": {**document["decision"], "positive": "maybe"}}))
        with pytest.raises(UsageError) as error:
            Classifier.from_pretrained(run)
        assert str(error.value) == (
            f"{path} is damaged: a threshold for 'maybe', which is no label.\nRun `textlora train` again."
        )

    def test_a_damaged_temperature(self, run):
        path = run / "adapter" / "textlora.json"
        document = json.loads(path.read_text())
        broken = {**document["calibration"], "fitted": 0.0, "verdict": "kept"}
        path.write_text(json.dumps({**document, "calibration": broken}))
        assert self.refused(run) == (
            f"{path} is damaged: the temperature is 0, expected a number above 0.\nRun `textlora train` again."
        )

    def test_other_data_and_no_validation_rows(self, run):
        dataset, done = load_dataset(run), training.load_run(run)
        with pytest.raises(UsageError) as error:
            redeciding._check_data(run, dataset, replace(done, dataset_fingerprint="e" * 64))
        assert error.value.message == (
            f"{run / 'run.json'} was trained on other data than {run / 'dataset.json'} describes."
        )
        with pytest.raises(UsageError) as error:
            redeciding._check_data(run, replace(dataset, validation=Split((), (), ())), done)
        assert error.value.message == f"{run} has no validation rows to decide by."

    def test_a_failure_on_the_way_changes_nothing(self, run, monkeypatch):
        def fail(*arguments, **named):
            raise RuntimeError("no power")

        before = contents(run)
        monkeypatch.setattr(evaluation, "_mistakes", fail)
        with pytest.raises(RuntimeError):
            redeciding.decide(run, goal="f1")
        assert contents(run) == before


class TestCommandLine:
    def test_decide(self, run):
        shown = call("decide", str(run), "--goal", "f1", "--abstain", "0.2")
        assert shown.code == 0, shown.err
        assert "'yes' is given from a probability of" in shown.out
        assert "It answers" in shown.out
        told = call("predict", str(run), "good bad film plot", "music")
        assert told.code == 0
        document = json.loads(call("decide", str(run), "--goal", "accuracy", "--abstain", "0", "--json").out)
        assert document["decided"]["decision"] is None
        assert document["decided"]["evaluation"]["trust"]["answers"] is None

    def test_not_sure_is_shown(self, run):
        redeciding.decide(run, error_rate=0.05)
        classifier = Classifier.from_pretrained(run, device="cpu")
        texts = pd.read_parquet(run / storage.PREDICTIONS)["text"].tolist()
        unsure = next(text for text, found in zip(texts, classifier.predict(texts), strict=True) if found.abstains)
        (found,) = classifier.predict([unsure])
        line = call("predict", str(run), unsure).out.splitlines()[0]
        assert line.endswith(f"  (not sure: {' or '.join(found.labels) or 'no label fits'})")
        document = json.loads(call("predict", str(run), unsure, "--json").out)
        assert document["predictions"][0]["abstains"] is True

    def test_wrong_use(self, run):
        shown = call("decide", str(run), "--goal", "f3")
        assert shown.code == 2
        assert shown.err == (
            "error: Cannot decide like this:\n  - The goal is 'f3', expected accuracy, f1, recall@precision=0.95, "
            "precision@recall=0.9 or cost:FP=1,FN=5.\n"
        )

    def test_settings_of_the_plan_are_checked_before_training(self, finished, tmp_path):
        shown = call(
            "plan", str(finished.parent / "data.csv"), "--base-model", "embedded", "--out", str(tmp_path / "p"),
            "--set", "decision.goal=f1", "--set", "decision.positive=maybe", "--set", "decision.error_rate=0.01",
        )  # fmt: skip
        assert shown.code == 2
        assert (
            "decision.positive is 'maybe' (set on the command line), which is no label. Labels: no, yes." in shown.err
        )
        assert (
            "An error rate of 0.01 needs at least 99 validation rows; these are 40, which are enough for a rate of"
            in shown.err
        )


class TestTraining:
    def test_a_goal_of_the_plan_is_fitted(self, finished, tiny_model, machine, tmp_path, fast_reload):
        dataset = load_dataset(finished)
        chosen = {name: value for name, value in dataset.info.options.items() if name.startswith("data.")}
        chosen |= QUICK | {"training.epochs": 1, "decision.goal": "precision@recall=0.8", "decision.error_rate": 0.1}
        plan = planning.plan(dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
        assert plan.settings.decision.positive == "yes"
        assert plan.reasons["decision.positive"] == (
            "the last of the labels, as for ROC-AUC; what precision@recall=0.8 is about"
        )
        training.train(plan, dataset, folder=tmp_path)
        bundle = Classifier.from_pretrained(tmp_path, device="cpu").bundle
        assert bundle.decision.reached["recall"] >= 0.8
        assert bundle.abstention.rows == 120

    def test_a_goal_out_of_reach_keeps_the_training(self, finished, tiny_model, machine, tmp_path, fast_reload):
        dataset = load_dataset(finished)
        chosen = {name: value for name, value in dataset.info.options.items() if name.startswith("data.")}
        chosen |= QUICK | {"decision.goal": "recall@precision=1"}
        plan = planning.plan(dataset, base_model=str(tiny_model), assignments=chosen, machine=machine)
        with pytest.warns(
            TextloraWarning, match="The usual decision is kept; another goal needs no training: textlora"
        ):
            training.train(plan, dataset, folder=tmp_path)
        assert Classifier.from_pretrained(tmp_path, device="cpu").bundle.decision is None


@pytest.mark.slow
def test_real_reviews_get_truer_probabilities(tmp_path):
    """Many epochs on few reviews make a classifier too sure; the temperature is fitted on others than it is measured on."""
    chosen = {"data.validation_share": 0.25, "data.test_share": 0.25, "training.epochs": 10, "training.batch_size": 16}
    textlora.fit(EXAMPLE, base_model="embedded", out=tmp_path / "run", assignments=chosen)
    found = evaluation.load_evaluation(tmp_path / "run").trust
    assert found.calibration.verdict == "kept"
    assert found.calibration.temperature > 1.2
    assert found.log_loss_change.high < 0
    assert found.reliability.ece < found.before.ece
    assert found.reliability.brier.value < found.before.brier.value
    bundle = Classifier.from_pretrained(tmp_path / "run").bundle
    assert bundle.calibration == found.calibration
