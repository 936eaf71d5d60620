"""The search for better settings: honest about luck, blind to the test, stoppable, limited in time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from tests.conftest import strike
from tests.test_cli import call
from tests.test_multilabel import texts_and_labels
from textlora import api, api_tune, planning, preparation, settings, storage, training, tuning
from textlora.errors import Interrupted, ResourceError, TrainingError, UsageError
from textlora.extras import Extra
from textlora.trials import Trial, Trials
from textlora.tuning import judging, load_trials, pruning, sampling, search
from textlora.tuning.space import Choice, Rate, Space, Whole, make_space
from textlora.types import TokenLengths

FIXED = {
    "compute.device": "cpu", "compute.precision": "fp32", "compute.tokens_per_micro_batch": 256,
    "training.eval_batch_size": 64, "training.batch_size": 32, "training.epochs": 2,
}  # fmt: skip
OPTIONS = [word for name, value in FIXED.items() for word in ("--set", f"{name}={value}")]
SEARCHED = ["training.learning_rate", "lora.r", "lora.top_layers"]


@pytest.fixture(scope="module")
def tuned(toy_csv, tiny_model, tmp_path_factory):
    """A finished search of six trials; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("tune") / "run"
    api_tune.tune(toy_csv, trials=6, base_model=str(tiny_model), out=folder, assignments=FIXED)
    return folder


@pytest.fixture
def copied(tuned, tmp_path):
    return shutil.copytree(tuned, tmp_path / "run")


def again(folder, toy_csv, tiny_model, **named):
    return api_tune.tune(toy_csv, base_model=str(tiny_model), out=folder, assignments=FIXED, **named)


class TestSearch:
    def test_the_first_trial_is_what_would_be_trained_without_a_search(self, tuned, tiny_model, tmp_path):
        dataset = preparation.load_dataset(tuned)
        plan = planning.plan(dataset, base_model=str(tiny_model), assignments=FIXED)
        run = training.train(plan, dataset, folder=tmp_path)
        first = load_trials(tuned).trials[0]
        flat = settings.flatten(plan.settings)
        assert first.settings == {name: flat[name] for name in SEARCHED}
        assert (first.state, first.value) == ("complete", run.best_metric)
        assert [value for _, value in first.curve] == [e["eval_accuracy"] for e in run.history if "eval_loss" in e]

    def test_trials_differ_within_their_ranges(self, tuned):
        found = load_trials(tuned)
        assert len({json.dumps(dict(trial.settings)) for trial in found.trials}) == 6
        for trial in found.trials:
            assert 1e-4 <= trial.settings["training.learning_rate"] <= 2e-3
            assert trial.settings["lora.r"] in (4, 8, 16, 32, 64)
            assert trial.settings["lora.top_layers"] in (1, 2)

    def test_only_the_best_of_several_is_better_than_none(self, tuned):
        found = load_trials(tuned)
        assert found.best.value == max(trial.value for trial in found.complete)
        assert found.seconds == sum(trial.seconds for trial in found.trials) > 0

    def test_nothing_of_the_trainings_is_left(self, tuned):
        kept = {path.name for path in (tuned / storage.TRIAL_RUNS).iterdir()}
        assert kept == {"0.parquet", f"{load_trials(tuned).best.number}.parquet"}

    def test_the_plans_are_ready_for_training(self, tuned, tmp_path):
        dataset = preparation.load_dataset(tuned)
        found = load_trials(tuned)
        for name, trial in ((storage.PLAN, found.recommended), (storage.BEST_PLAN, found.best)):
            plan = planning.load_plan(tuned / name)
            flat = settings.flatten(plan.settings)
            assert {key: flat[key] for key in SEARCHED} == dict(trial.settings)
            assert flat["lora.lora_alpha"] == 2 * flat["lora.r"]
            planning.check_plan(plan, dataset)
        run = training.train(planning.load_plan(tuned / storage.BEST_PLAN), dataset, folder=tmp_path)
        assert run.best_metric == found.best.value

    def test_the_test_split_is_never_looked_at(self, tuned, tiny_model, tmp_path):
        class Forbidden:
            def __len__(self):
                return 12

            def __getattr__(self, name):
                raise AssertionError(f"the test split's {name} was asked for")

        dataset = replace(preparation.load_dataset(tuned), folder=tmp_path, test=Forbidden())
        named = {"trials": 2, "base_model": str(tiny_model), "assignments": FIXED}
        assert len(tuning.tune(dataset, **named).trials) == 2

    def test_a_search_is_the_same_whether_or_not_it_was_stopped(self, tuned, toy_csv, tiny_model, tmp_path):
        def when(stage, done, total, note):
            return done == 2 and "step 3/" in note

        folder = tmp_path / "run"
        with pytest.raises(Interrupted) as error:
            again(folder, toy_csv, tiny_model, trials=4, progress=strike(when))
        assert error.value.hint == "Go on with: the same call once more"
        assert len(load_trials(folder).trials) == 2
        assert (folder / storage.PLAN).exists()
        told = []
        found = again(folder, toy_csv, tiny_model, trials=4, progress=lambda *step: told.append(step))
        assert min(done for _, done, _, _ in told) == 2
        ours, theirs = (
            [(trial.settings, trial.state, trial.value, trial.curve) for trial in one.trials[:4]]
            for one in (found, load_trials(tuned))
        )
        assert ours == theirs

    def test_a_repeated_call_trains_nothing_and_a_larger_one_the_rest(self, copied, toy_csv, tiny_model):
        before = load_trials(copied)
        assert again(copied, toy_csv, tiny_model, trials=6) == before
        more = again(copied, toy_csv, tiny_model, trials=7)
        assert more.trials[:6] == before.trials
        assert len(more.trials) == 7

    def test_another_search_in_the_folder_is_refused(self, copied, toy_csv, tiny_model):
        with pytest.raises(UsageError) as error:
            api_tune.tune(toy_csv, base_model=str(tiny_model), out=copied, assignments={**FIXED, "lora.r": 4})
        assert str(error.value) == (
            f"{copied / 'trials.json'} is of a search with other data or options.\n"
            "Choose another folder with --out, or replace the search in it with --overwrite."
        )

    def test_a_failed_trial_is_noted_and_the_search_goes_on(self, toy_csv, tiny_model, tmp_path, monkeypatch):
        real = search.series.train_or_resume

        def failing(plan, dataset, folder, **named):
            if folder.name == "1":
                raise TrainingError("The training loss became nan at step 3; training stopped at once.")
            return real(plan, dataset, folder, **named)

        monkeypatch.setattr(search.series, "train_or_resume", failing)
        found = again(tmp_path / "run", toy_csv, tiny_model, trials=3)
        assert [trial.state for trial in found.trials] == ["complete", "failed", "complete"]
        assert (
            found.note(found.trials[1]) == "failed: The training loss became nan at step 3; training stopped at once."
        )

    def test_a_full_disk_ends_the_search_and_not_all_trials_to_come(self, toy_csv, tiny_model, tmp_path, monkeypatch):
        real = search.series.train_or_resume

        def failing(plan, dataset, folder, **named):
            if folder.name == "1":
                raise ResourceError(message)
            return real(plan, dataset, folder, **named)

        monkeypatch.setattr(search.series, "train_or_resume", failing)
        message = "The disk is full: cannot write x."
        with pytest.raises(ResourceError, match="The disk is full"):
            again(tmp_path / "run", toy_csv, tiny_model, trials=2)
        assert len(load_trials(tmp_path / "run").trials) == 1
        message = "The memory ran out (training, step 3): bad_alloc"
        assert again(tmp_path / "run", toy_csv, tiny_model, trials=2).trials[1].state == "failed"


class TestTime:
    def test_no_trial_is_begun_that_would_not_end(self, copied, toy_csv, tiny_model):
        spent = load_trials(copied).seconds
        found = again(copied, toy_csv, tiny_model, trials=9, minutes=(spent + 0.2) / 60)
        assert len(found.trials) == 6
        assert found.ended == "no further trial fits into the limits"

    def test_a_limit_below_the_default_is_refused_at_once(self, toy_csv, tiny_model, tmp_path):
        with pytest.raises(ResourceError) as error:
            again(tmp_path / "run", toy_csv, tiny_model, trials=3, minutes=0.01)
        assert str(error.value).startswith("The default alone takes about ")
        assert error.value.hint == "Raise --time-limit, take a share of the rows (--sample 0.2), or --recipe fast."

    def test_a_trial_ends_with_the_limit_and_the_others_stay(self, copied, toy_csv, tiny_model, monkeypatch):
        monkeypatch.setattr(search.Search, "_fits", lambda self, plan: True)
        spent = load_trials(copied).seconds
        found = again(copied, toy_csv, tiny_model, trials=9, minutes=(spent + 0.01) / 60)
        assert (len(found.trials), found.ended) == (6, "the time limit was reached")


class TestPruning:
    OTHERS = (
        ((0.5, 0.8), (1.0, 0.9)),
        ((0.5, 0.7), (1.0, 0.9)),
        ((0.25, 0.6), (0.5, 0.9), (1.0, 0.9)),
        ((0.5, 0.8), (1.0, 0.8)),
    )

    def behind(self, *curve, others=OTHERS, sign=1, noise=0.0):
        return pruning.lies_behind(curve, others, sign=sign, noise=noise)

    def test_compared_with_the_median_at_the_same_share(self):
        assert self.behind((0.5, 0.79))
        assert not self.behind((0.5, 0.8))
        assert not self.behind((0.2, 0.9), (0.5, 0.5))  # its best counts

    def test_within_the_noise_nothing_is_stopped(self):
        assert not self.behind((0.5, 0.76), noise=0.05)
        assert pruning.noise_of(0.9, 100, metric="accuracy") == pytest.approx(0.03)
        assert pruning.noise_of(0.9, 100, metric="loss") == 0

    def test_not_before_there_are_enough_and_not_at_the_end(self):
        assert not self.behind((0.5, 0.1), others=self.OTHERS[:3])
        assert not self.behind((0.25, 0.1))  # one of them was validated so early
        assert not self.behind((1.0, 0.1))

    def test_of_a_loss_less_is_better(self):
        assert self.behind((0.5, 0.85), sign=-1)
        assert not self.behind((0.5, 0.75), sign=-1)

    def test_a_pruned_trial_is_stopped_and_kept_with_what_it_reached(self, copied, toy_csv, tiny_model, monkeypatch):
        monkeypatch.setattr(search, "lies_behind", lambda curve, others, **named: True)
        found = again(copied, toy_csv, tiny_model, trials=7)
        last = found.trials[-1]
        assert (last.state, len(last.curve)) == ("pruned", 1)
        assert last.value == last.curve[0][1]
        assert found.note(last).startswith("stopped after ")


class TestJudging:
    @pytest.mark.parametrize(("won", "lost", "comparisons"), [(9, 1, 3), (30, 10, 19), (0, 0, 5), (3, 8, 2)])
    def test_it_is_mcnemars_exact_test_with_bonferronis_correction(self, won, lost, comparisons):
        ours, theirs = np.ones(60, np.int64), np.ones(60, np.int64)
        theirs[:won], ours[won : won + lost] = 0, 0
        found = judging.judge(4, ours, theirs, comparisons=comparisons)
        assert (found.won, found.lost, found.best) == (won, lost, 4)
        alone = binomtest(won, won + lost, 0.5, alternative="greater").pvalue if won + lost else 1.0
        assert found.p_value == pytest.approx(min(1.0, comparisons * alone))

    def test_rows_that_resemble_each_other_change_sides_together(self):
        ours, theirs = np.ones(60, np.int64), np.array([0] * 12 + [1] * 48)
        units = np.arange(60) // 4
        assert judging.judge(1, ours, theirs, comparisons=1, units=units).p_value == pytest.approx(0.5**3)
        assert judging.judge(1, ours, theirs, comparisons=1).p_value == pytest.approx(0.5**12)

    def test_the_needed_rows_are_the_fewest_that_are_enough(self):
        for comparisons in (1, 5, 19, 100):
            needed = judging.judge(1, np.zeros(3), np.zeros(3), comparisons=comparisons).needed
            ours, theirs = np.ones(50, np.int64), np.ones(50, np.int64)
            theirs[:needed] = 0
            assert judging.judge(1, ours, theirs, comparisons=comparisons).better
            theirs[needed - 1] = 1
            assert not judging.judge(1, ours, theirs, comparisons=comparisons).better

    def test_the_best_of_equal_trials_is_seldom_called_better(self):
        draw = np.random.default_rng(0)
        called = 0
        for _ in range(300):
            right = (draw.random((20, 200)) < 0.85).astype(np.int64)
            best = 1 + int(right[1:].sum(axis=1).argmax())
            called += judging.judge(best, right[best], right[0], comparisons=19).better
        assert called / 300 <= 0.05

    def made(self, values, verdict=None, **named):
        trials = tuple(Trial(n, {"lora.r": 4 * n}, "complete", value=value, loss=0.5) for n, value in enumerate(values))
        return Trials({}, "accuracy", 60, {"lora.r": "4 to 8"}, trials, verdict=verdict, **named)

    def test_what_may_be_luck_is_not_recommended(self):
        lucky = judging.judge(1, np.array([1, 1, 1, 0] + [1] * 56), np.array([0, 0, 1, 1] + [1] * 56), comparisons=19)
        found = self.made([0.9, 0.92], lucky)
        assert found.recommended.number == 0
        assert found.told == (
            "Trial 1 has the best validation accuracy: 0.9200, the default 0.9000. Of 60 validation rows it alone is right on 2, "
            "the default alone on 1. That may be chance (p = 1 by a paired test, corrected for 19 trials): the default is "
            "recommended. On 60 rows at least 9 must be won, and none lost, before a trial counts as better."
        )

    def test_what_is_more_than_luck_is(self):
        better = judging.judge(1, np.ones(60, np.int64), np.array([0] * 20 + [1] * 40), comparisons=19)
        found = self.made([0.67, 1.0], better)
        assert found.recommended.number == 1
        assert (
            "That is better than chance (p = 1.8e-05 by a paired test, corrected for 19 trials): trial 1 is recommended."
            in found.told
        )

    def test_where_the_default_is_the_best_it_is_said(self):
        found = self.made([0.9, 0.9, 0.8])
        assert found.best.number == 0
        assert found.told == "None of 2 trials is better than the default: validation accuracy 0.9000."

    def test_of_equal_trials_the_smaller_loss_counts(self):
        found = self.made([0.9, 0.9])
        first, second = found.trials
        assert replace(found, trials=(first, replace(second, loss=0.4))).best.number == 1
        assert replace(found, metric="loss", trials=(first, replace(second, value=0.8))).best.number == 1


class TestSpace:
    LONG = TokenLengths("embedded", 512, (10, 20, 50, 100, 200, 400, 600, 900, 1200), 200, 180, 60, 0.1, ())
    SHORT = replace(LONG, quantiles=(5, 6, 7, 8, 9, 10, 20, 30, 40))

    def space(self, lengths=None, *, fixed=(), layers=6, **changes):
        default = settings.build({"training.epochs": 3, "text.max_length": 512, **changes})
        return make_space(default, layers=layers, lengths=lengths, fixed=set(fixed))

    def test_what_is_likely_to_help_is_in_it(self):
        told = self.space(self.LONG).told()
        assert told == {
            "training.learning_rate": "0.0001 to 0.002, by factors",
            "lora.r": "4 to 64, powers of two",
            "lora.top_layers": "2 to 6",
            "training.epochs": "1 to 5",
            "text.policy": "head+tail, head, tail, windows",
        }

    def test_the_length_policy_is_searched_only_where_texts_are_cut(self):
        assert "text.policy" not in self.space(self.SHORT).told()
        assert "text.policy" not in self.space(None).told()

    def test_windows_are_left_out_where_they_cost_much(self):
        long = replace(self.LONG, quantiles=(600, 700, 900, 1000, 1500, 2000, 2500, 3000, 4000))
        assert self.space(long).told()["text.policy"] == "head+tail, head, tail"

    def test_what_the_user_has_set_stays(self):
        space = self.space(fixed=("lora.r", "training.epochs"))
        assert list(space.told()) == ["training.learning_rate", "lora.top_layers"]
        assert space.alpha_by_rank is None

    def test_the_default_is_in_the_ranges(self):
        space = self.space(**{"training.epochs": 10, "training.learning_rate": 5e-5, "lora.r": 2, "lora.top_layers": 1})
        assert space.told() == {
            "training.learning_rate": "5e-05 to 0.002, by factors", "lora.r": "2 to 64, powers of two",
            "lora.top_layers": "1 to 6", "training.epochs": "1 to 10",
        }  # fmt: skip

    def test_alpha_follows_the_rank(self):
        drawn = {"training.learning_rate": 0.00123456, "lora.r": 5, "lora.top_layers": 3, "training.epochs": 2}
        assert self.space().assignments(drawn) == {
            "training.learning_rate": 0.0012, "lora.r": 32, "lora.top_layers": 3, "training.epochs": 2,
            "lora.lora_alpha": 64.0,
        }  # fmt: skip


class TestSampling:
    SPACE = Space((Rate("a", 1e-4, 1e-2), Whole("b", 2, 6, power=True), Choice("c", ("x", "y"))))

    def trials(self, number):
        draw = np.random.default_rng(0)
        found = []
        for place in range(number):
            rank = int(draw.integers(2, 7))
            values = {"a": float(10 ** draw.uniform(-4, -2)), "b": 2**rank, "c": "xy"[place % 2]}
            found.append(Trial(place, values, "complete", ((1.0, rank / 10),), rank / 10, 0.5))
        return found

    def test_a_suggestion_depends_on_seed_number_and_trials_alone(self):
        trials = self.trials(12)
        first, same, other = (sampling.suggest(self.SPACE, trials, seed=seed, number=12) for seed in (1, 1, 2))
        assert first == same
        assert first != other
        assert sampling.suggest(self.SPACE, trials, seed=1, number=12, attempt=1) != first

    def test_it_learns_from_what_was_good(self):
        trials = self.trials(30)
        ranks = [sampling.suggest(self.SPACE, trials, seed=0, number=number)["b"] for number in range(30, 50)]
        assert np.mean(ranks) > 4.8
        worst = [sampling.suggest(self.SPACE, trials, seed=0, number=number, sign=-1)["b"] for number in range(30, 50)]
        assert np.mean(worst) < 3.2

    def test_pruned_and_failed_trials_are_understood(self):
        first, second, third, *rest = self.trials(8)
        pruned = replace(first, state="pruned", curve=((0.5, 0.2),))
        failed = replace(second, state="failed", value=None, curve=())
        assert sampling.suggest(self.SPACE, [pruned, failed, third, *rest], seed=0, number=8)

    def test_importance_finds_what_matters(self):
        found = sampling.importance(self.SPACE, self.trials(30), seed=0)
        assert next(iter(found)) == "b"
        assert sum(found.values()) == pytest.approx(1)
        assert sampling.importance(self.SPACE, self.trials(1), seed=0) == {}


class TestCommand:
    def test_terminal_json_and_page(self, copied, toy_csv, tiny_model):
        arguments = ("tune", toy_csv, "--trials", "6", "--base-model", tiny_model, "--out", copied, *OPTIONS)
        done = call(*arguments)
        assert done.code == 0, done.err
        for words in (
            "validation rows; the test split took no part", "default", "best", f"{copied / 'plan.toml'} has the recommended settings",
            f"Next: textlora fit {toy_csv} --plan {copied / 'plan.toml'}",
        ):  # fmt: skip
            assert words in done.out, words
        page, text = ((copied / name).read_text(encoding="utf-8") for name in ("trials.html", "trials.md"))
        found = load_trials(copied)
        for document in (page, text):
            assert found.told.split(":")[0] in document
            assert "The test split took no part." in document
        assert page.count("<circle") == len([trial for trial in found.trials if trial.value is not None])
        results = json.loads(call(*arguments, "--json").out)
        assert [*results] == ["dataset", "trials", "report"]
        assert len(results["trials"]["trials"]) == 6

    def test_a_run_folder_gives_its_data_and_stays_as_it_is(self, toy_run, tiny_model, tmp_path):
        folder = shutil.copytree(toy_run.folder, tmp_path / "run")
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        done = call("tune", folder, "--trials", "2", "--base-model", tiny_model, *OPTIONS)
        assert done.code == 0, done.err
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
        out = tmp_path / "run-tune"
        assert preparation.load_dataset(out).fingerprint == toy_run.dataset.fingerprint
        assert f"Next: textlora train {out}" in done.out
        refused = call("tune", folder, "--trials", "2", "--base-model", tiny_model, "--out", folder)
        assert refused.code == 2
        assert f"{folder / 'plan.toml'} was not made by a search." in refused.err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--trials", "1"), "--trials 1 is no search: the first one is the default, so 2 at least are expected.\nFor instance --trials 20."),
            (("--time-limit", "soon"), "--time-limit is 'soon', expected a time such as 20m or 1h30m."),
        ],
    )  # fmt: skip
    def test_wrong_options_are_refused_before_anything_is_done(self, options, message, toy_csv, tmp_path):
        done = call("tune", toy_csv, "--out", tmp_path / "run", *options)
        assert (done.code, done.err) == (2, f"error: {message}\n")
        assert not (tmp_path / "run").exists()

    def test_nothing_left_to_search(self, toy_csv, tiny_model, tmp_path):
        fixed = {
            **FIXED,
            **{name: value for name, value in settings.flatten(settings.Settings()).items() if name in SEARCHED},
        }
        fixed["lora.top_layers"] = 1
        with pytest.raises(UsageError, match="Nothing is left to search"):
            api_tune.tune(toy_csv, base_model=str(tiny_model), out=tmp_path / "run", assignments=fixed)

    def test_without_optuna_the_command_to_install_it_is_named(self, toy_csv, tmp_path, monkeypatch):
        monkeypatch.setattr(sampling, "OPTUNA", Extra("no_such_optuna", (5, 0), "tune"))
        done = call("tune", toy_csv, "--out", tmp_path / "run")
        assert (done.code, done.err) == (
            4, "error: tune needs optuna: no_such_optuna is not installed.\npip install 'textlora[tune]'\n",
        )  # fmt: skip


def test_rows_with_several_labels(tiny_model, tmp_path):
    texts, labels = texts_and_labels(120)
    data = pd.DataFrame({"text": texts, "label": labels})
    assignments = {**FIXED, "training.best_metric": "f1_macro"}
    found = api_tune.tune(data, trials=2, base_model=str(tiny_model), out=tmp_path / "run", assignments=assignments)
    assert found.metric_name == "validation macro F1"
    table = pq.read_table(tmp_path / "run" / "trials" / "0.parquet").to_pandas()
    right = tuning._right(preparation.load_dataset(tmp_path / "run"), 0)
    expected = [3 - len(set(had) ^ set(given)) for had, given in zip(table["label"], table["prediction"], strict=True)]
    assert right.tolist() == expected


def test_settings_fixed_in_a_plan_file_are_not_searched(toy_csv, tiny_model, tmp_path):
    (tmp_path / "fixed.toml").write_text("[lora]\nr = 8\n\n[training]\nepochs = 1\n", encoding="utf-8")
    found = api_tune.tune(
        toy_csv, trials=2, base_model=str(tiny_model), out=tmp_path / "run", assignments=FIXED,
        plan_file=tmp_path / "fixed.toml",
    )  # fmt: skip
    assert list(found.space) == ["training.learning_rate", "lora.top_layers"]
    assert settings.flatten(planning.load_plan(tmp_path / "run" / "best_plan.toml").settings)["lora.r"] == 8


def test_the_recipe_is_the_default_that_is_searched_from(toy_csv, tiny_model, tmp_path):
    found = api_tune.tune(
        toy_csv, trials=2, base_model=str(tiny_model), recipe="accurate", out=tmp_path / "run", assignments=FIXED
    )
    assert found.asked["recipe"] == "accurate"
    assert api.PlanOptions(recipe="accurate").flat()["training.epochs"] == 3
