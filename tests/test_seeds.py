"""Several seeds on the same splits: the same trainings as one by one, scored alike, the best one kept."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import QUICK, reload_in_this_process, strike
from tests.test_cli import call
from tests.test_multilabel import texts_and_labels
from textlora import api, evaluation, planning, seeds, settings, storage, training
from textlora.errors import Interrupted, UsageError
from textlora.repeated import SeedRun, Seeds
from textlora.seeds import _best, load_seeds, seeds_of, train_seeds, with_seed

ASSIGNMENTS = {**QUICK, "training.epochs": 1}
OPTIONS = [word for name, value in ASSIGNMENTS.items() for word in ("--set", f"{name}={value}")]
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def quick_reload():
    """Check the reload in this process: these tests train a dozen times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.saving, "reload_difference", reload_in_this_process)
        yield


@pytest.fixture(scope="module")
def fitted(toy_csv, tiny_model, tmp_path_factory):
    """A run folder with three seeds; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("seeds") / "run"
    api.fit(toy_csv, base_model=str(tiny_model), out=folder, assignments=ASSIGNMENTS, seeds=3)
    return folder


@pytest.fixture
def copied(fitted, tmp_path):
    return shutil.copytree(fitted, tmp_path / "run")


def planned(folder):
    return planning.load_plan(folder / storage.PLAN), api.preparation.load_dataset(folder)


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


def stamps(folder):
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"seeds/*/{WEIGHTS}")}


class TestTrainings:
    def test_each_seed_is_the_training_of_a_plan_with_that_seed(self, fitted, tmp_path):
        plan, dataset = planned(fitted)
        for seed in (42, 43):
            alone = with_seed(plan, seed, of=1)
            training.train(alone, dataset, folder=tmp_path / str(seed))
            assert weights(tmp_path / str(seed)) == weights(fitted / "seeds" / str(seed))
        assert weights(tmp_path / "42") != weights(tmp_path / "43")

    def test_all_are_scored_on_the_same_test_rows(self, fitted):
        found, (_, dataset) = load_seeds(fitted), planned(fitted)
        assert (found.split, found.rows) == ("test", len(dataset.test))
        assert [run.seed for run in found.runs] == [42, 43, 44]
        for run in found.runs:
            scorer = evaluation._load(fitted / "seeds" / str(run.seed))
            labels = scorer.predict_proba(dataset.test.texts).argmax(1)
            assert run.metrics["accuracy"] == np.mean(labels == np.array(dataset.test.labels))
            assert run.classifier == scorer.fingerprint

    def test_the_spread_is_that_of_the_trainings(self, fitted):
        found = load_seeds(fitted)
        values = [run.metrics["log_loss"] for run in found.runs]
        assert found.metrics["log_loss"].mean == pytest.approx(np.mean(values))
        assert found.metrics["log_loss"].deviation == pytest.approx(np.std(values, ddof=1))

    def test_the_splits_keep_their_seed(self, fitted):
        assert planned(fitted)[1].info.seed == 42
        assert len({run.seed for run in load_seeds(fitted).runs}) == 3

    def test_checkpoints_are_gone(self, fitted):
        assert not list(fitted.glob("seeds/*/checkpoints"))


class TestKept:
    def test_it_is_in_the_run_folder_with_its_evaluation(self, fitted):
        found = load_seeds(fitted)
        run, scores = training.load_run(fitted), evaluation.load_evaluation(fitted)
        assert run.seed == found.kept
        assert weights(fitted) == weights(fitted / "seeds" / str(found.kept))
        assert scores.run_fingerprint == found.kept_run.classifier
        assert {name: scores.metrics[name].value for name in found.metrics} == pytest.approx(found.kept_run.metrics)

    def test_it_is_the_best_on_validation_and_not_on_the_test(self):
        def made(seed, validation, loss, test):
            return SeedRun(seed, 10, validation, loss, 1.0, {"accuracy": test}, "")

        runs = [made(1, 0.8, 0.5, 0.99), made(2, 0.9, 0.6, 0.1), made(3, 0.9, 0.4, 0.2), made(4, 0.9, 0.4, 0.9)]
        assert _best(runs, "accuracy").seed == 3
        assert _best([made(1, 0.5, 0.5, 1.0), made(2, 0.3, 0.3, 0.0)], "loss").seed == 2

    def test_another_training_in_the_folder_is_not_one_of_them(self, copied):
        run, scores = training.load_run(copied), evaluation.load_evaluation(copied)
        assert isinstance(seeds_of(run, scores), Seeds)
        assert seeds_of(replace(run, seed=7), scores) is None
        assert seeds_of(run, replace(scores, run_fingerprint="other")) is None
        (copied / storage.SEEDS).unlink()
        assert seeds_of(run, scores) is None


class TestGoingOn:
    def test_a_repeated_call_trains_nothing_and_more_seeds_train_the_new_ones(self, copied, toy_csv, tiny_model):
        before = stamps(copied)
        api.fit(toy_csv, base_model=str(tiny_model), out=copied, assignments=ASSIGNMENTS, seeds=3)
        assert stamps(copied) == before
        api.fit(toy_csv, base_model=str(tiny_model), out=copied, assignments=ASSIGNMENTS, seeds=4)
        assert {name: stamp for name, stamp in stamps(copied).items() if name != "45"} == before
        assert len(load_seeds(copied).runs) == 4

    def test_an_interrupted_seed_is_resumed_and_finished_ones_stay(self, fitted, tmp_path):
        plan, dataset = planned(fitted)
        folder = tmp_path / "run"
        folder.mkdir()
        dataset = replace(dataset, folder=folder)

        def when(stage, done, *_):
            return stage == "3 seeds" and done == plan.estimate.steps + 5

        with pytest.raises(Interrupted) as error:
            train_seeds(plan, dataset, 3, progress=strike(when))
        assert error.value.hint == "Go on with: the same call once more"
        first = stamps(folder)
        assert list(first) == ["42"]
        told = []
        train_seeds(plan, dataset, 3, progress=lambda *step: told.append(step))
        assert stamps(folder)["42"] == first["42"]
        assert [weights(folder / f"seeds/{seed}") for seed in (42, 43, 44)] == [
            weights(fitted / f"seeds/{seed}") for seed in (42, 43, 44)
        ]
        steps = [(done, total) for stage, done, total, _ in told if stage == "3 seeds"]
        assert steps[-1] == (2 * plan.estimate.steps, 2 * plan.estimate.steps)

    def test_an_ordinary_training_before_is_the_first_seed(self, toy_run, tmp_path):
        folder = shutil.copytree(toy_run.folder, tmp_path / "run")
        dataset = replace(toy_run.dataset, folder=folder)
        train_seeds(toy_run.plan, dataset, 2)
        assert weights(folder / "seeds" / "42") == weights(toy_run.folder)
        assert training.load_run(folder / "seeds" / "42").stage_seconds == toy_run.run.stage_seconds

    def test_a_lost_folder_comes_back_from_its_backup(self, fitted, toy_csv, tiny_model, tmp_path):
        named = {"base_model": str(tiny_model), "assignments": ASSIGNMENTS, "seeds": 2, "backup": tmp_path / "backup"}
        out = tmp_path / "run"

        def when(stage, done, total, _):
            return stage == "2 seeds" and done == total - 1

        with pytest.raises(Interrupted):
            api.fit(toy_csv, out=out, progress=strike(when, signal.SIGTERM), **named)
        shutil.rmtree(out)
        api.fit(toy_csv, out=out, **named)
        assert weights(out / "seeds" / "43") == weights(fitted / "seeds" / "43")
        assert (tmp_path / "backup" / "seeds.json").exists()
        assert not list((tmp_path / "backup").glob("seeds/*/checkpoints"))

    def test_overwrite_deletes_the_seeds(self, copied):
        api.clear(copied)
        assert not list(copied.iterdir())


class TestTold:
    def test_terminal_json_and_report(self, copied, toy_csv, tiny_model):
        arguments = ("fit", toy_csv, "--base-model", tiny_model, "--out", copied, *OPTIONS, "--seeds", "3")
        done = call(*arguments)
        assert done.code == 0, done.err
        kept = load_seeds(copied).kept
        for words in (
            "3 trainings on these splits, with the seeds 42 to 44: ",
            f"Kept: seed {kept}, the best on validation; the test split had no say in it.",
            "the chance in training alone, on the same rows",
            "std. deviation",
        ):
            assert words in done.out, words
        page, text = ((copied / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
        for document in (page, text):
            assert (
                f"The classifier of this run is that of seed {kept}, which has the best validation accuracy" in document
            )
            assert "Over 3 seeds accuracy is" in document
            assert "That the scored rows are a sample is another uncertainty" in document
        assert 'href="#seeds"' in page
        assert "| standard deviation |" in text
        found = json.loads(call(*arguments, "--json").out)
        assert [*found] == ["dataset", "plan", "seeds", "run", "evaluation", "report"]
        assert found["seeds"]["kept"] == kept

    def test_the_plan_in_the_report_has_the_kept_seed(self, copied, monkeypatch):
        run = training.load_run(copied)
        monkeypatch.setattr(
            planning, "load_plan", lambda path: replace(real(path), settings=other(real(path).settings))
        )
        api.report_folder(copied)
        assert (
            f"| {run.seed} | one of 3 seeds (--seeds); the splits keep the seed 7 |"
            in (copied / "report.md").read_text()
        )

    def test_one_run_has_no_such_section(self, toy_run, tmp_path):
        folder = shutil.copytree(toy_run.folder, tmp_path / "run")
        api.evaluate_folder(folder)
        page = api.report_folder(folder).read_text(encoding="utf-8")
        assert 'id="seeds"' not in page
        assert "## Seeds" not in (folder / "report.md").read_text(encoding="utf-8")

    def test_one_seed_is_refused_before_anything_is_done(self, toy_csv, tmp_path):
        done = call("fit", toy_csv, "--out", tmp_path / "run", "--seeds", "1")
        assert done.code == 2
        assert done.err.startswith("error: --seeds 1 is not several")
        assert not (tmp_path / "run").exists()


real = planning.load_plan


def other(found):
    return found.model_copy(update={"seed": 7})


def test_a_time_limit_is_for_all_trainings_together():
    options = api.PlanOptions(assignments={"limits.minutes": 30.0, "lora.r": 4})
    assert api._sharing_time(options, 5).assignments == {"limits.minutes": 6.0, "lora.r": 4}
    assert api._sharing_time(options, 1) is options
    assert api._sharing_time(api.PlanOptions(), 5).assignments == {}


def test_rows_with_several_labels(tiny_model, tmp_path, machine):
    import pandas as pd

    texts, labels = texts_and_labels(120)
    frame = pd.DataFrame({"text": texts, "label": labels})
    api.fit(frame, base_model=str(tiny_model), out=tmp_path / "run", assignments=ASSIGNMENTS, seeds=2)
    found = load_seeds(tmp_path / "run")
    assert found.headline == "f1_macro"
    assert {"f1_micro", "hamming_loss"} <= set(found.metrics)
    assert "Over 2 seeds macro F1 is" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_file_of_another_version_is_refused(copied):
    path = copied / storage.SEEDS
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'), encoding="utf-8")
    with pytest.raises(UsageError, match="schema version 9"):
        load_seeds(copied)


def test_seeds_begin_anew_behind_the_last_one(toy_plan):
    assert settings.build({"seed": seeds.SEED_LIMIT - 1}).seed == seeds.SEED_LIMIT - 1
    assert with_seed(toy_plan, 0, of=2).settings.seed == 0
