"""Goals as users write them, and operating points chosen by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn import metrics as reference

from textlora import goals, thresholds
from textlora.errors import UsageError
from textlora.goals import Goal
from textlora.settings import Settings, build, flatten


class TestParse:
    @pytest.mark.parametrize(
        ("text", "goal"),
        [
            ("accuracy", Goal("accuracy")),
            (" f1 ", Goal("f1")),
            ("recall@precision=0.95", Goal("recall@precision", 0.95)),
            ("precision@recall = 1", Goal("precision@recall", 1.0)),
            ("cost:FP=1,FN=5", Goal("cost", false_positive=1.0, false_negative=5.0)),
            ("cost: fn = 2.5, fp = 0.5", Goal("cost", false_positive=0.5, false_negative=2.5)),
        ],
    )
    def test_forms(self, text, goal):
        assert goals.parse(text) == goal
        assert goals.parse(str(goal)) == goal

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("f2", goals.FORMS),
            ("", goals.FORMS),
            ("recall", goals.FORMS),
            ("recall@precision=95", "a share above 0 and at most 1 behind recall@precision=, for instance recall@precision=0.9"),
            ("precision@recall=0", "a share above 0 and at most 1 behind precision@recall=, for instance precision@recall=0.9"),
            ("precision@recall=nan", "a share above 0 and at most 1 behind precision@recall=, for instance precision@recall=0.9"),
            ("cost:FP=1", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
            ("cost:FP=1,FP=2", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
            ("cost:FP=1,FN=0", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
            ("cost:FP=1,FN=-5", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
            ("cost:FP=1,FN=inf", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
            ("cost:FP=1,FN=many", "two costs above 0, of a label given wrongly (FP) and of one missed (FN), for instance cost:FP=1,FN=5"),
        ],
    )  # fmt: skip
    def test_what_is_none(self, text, expected):
        with pytest.raises(ValueError) as caught:
            goals.parse(text)
        assert str(caught.value) == expected

    def test_settings_keep_the_goal_as_it_is_written(self):
        assert build({"decision.goal": "cost: FP=1, FN=5"}).decision.goal == "cost:FP=1,FN=5"
        assert flatten(Settings())["decision.goal"] is None

    def test_settings_refuse_other_goals_and_rates_together(self):
        with pytest.raises(UsageError) as caught:
            build({"decision.goal": "f2", "decision.error_rate": 0.5, "decision.positive": ""})
        assert caught.value.problems == (
            f"decision.goal is 'f2', expected {goals.FORMS}.",
            "decision.positive is '', expected a text of at least 1 character.",
            "decision.error_rate is 0.5, expected less than 0.5.",
        )


@pytest.fixture(scope="module")
def answers():
    """200 rows, a third of them positive, with many equal probabilities."""
    random = np.random.default_rng(8)
    truth = random.random(200) < 0.3
    return truth, np.round(np.clip(0.25 * truth + 0.6 * random.random(200), 0, 1), 2)


class TestPoints:
    def test_every_point_does_what_its_threshold_does(self, answers):
        truth, probabilities = answers
        found = thresholds.points(truth, probabilities)
        assert len(found.cuts) == len(np.unique(probabilities)) + 1
        for place, cut in enumerate(found.cuts):
            given = probabilities >= cut
            expected = reference.precision_score(truth, given, zero_division=0), reference.recall_score(truth, given)
            assert (found.precision[place], found.recall[place]) == pytest.approx(expected, abs=1e-12)
            assert found.f1[place] == pytest.approx(reference.f1_score(truth, given, zero_division=0), abs=1e-12)
            cost = (2 * (given & ~truth) + 7 * (~given & truth)).mean()
            assert found.cost(goals.parse("cost:FP=2,FN=7"))[place] == pytest.approx(cost, abs=1e-12)
        assert found.given[0] == 0
        assert found.given[-1] == 200

    def test_a_probability_of_one_can_be_refused(self):
        found = thresholds.points(np.array([True, False]), np.array([1.0, 1.0]))
        assert found.cuts[0] > 1
        assert found.given.tolist() == [0, 2]


class TestBest:
    @pytest.mark.parametrize(
        "text", ["f1", "recall@precision=0.6", "precision@recall=0.8", "cost:FP=1,FN=5", "cost:FP=5,FN=1"]
    )
    def test_no_other_threshold_serves_the_goal_better(self, answers, text):
        truth, probabilities = answers
        goal = goals.parse(text)
        cut = thresholds.fit(truth[:, None], probabilities[:, None], goal)[0]

        def worth(given):
            precision = reference.precision_score(truth, given, zero_division=0)
            recall = reference.recall_score(truth, given)
            if goal.kind == "recall@precision":
                return recall if precision >= goal.share else -1
            if goal.kind == "precision@recall":
                return precision if recall >= goal.share else -1
            if goal.kind == "cost":
                return -(goal.false_positive * (given & ~truth) + goal.false_negative * (~given & truth)).mean()
            return reference.f1_score(truth, given, zero_division=0)

        tried = [worth(probabilities >= other) for other in [*np.unique(probabilities), 1.1]]
        assert worth(probabilities >= cut) == pytest.approx(max(tried), abs=1e-12)

    def test_where_false_alarms_cost_too_much_nobody_is_given_the_label(self):
        truth = np.array([[True]] * 5 + [[False]] * 95)
        cut = thresholds.fit(truth, np.full((100, 1), 0.5), goals.parse("cost:FP=10,FN=1"))[0]
        assert cut > 0.5
        assert thresholds.fit(truth, np.full((100, 1), 0.5), goals.parse("cost:FP=1,FN=100"))[0] <= 0.5

    def test_of_equal_costs_the_nearest_to_the_formula_is_taken(self):
        truth = np.array([[True]] * 6 + [[False]] * 6)
        probabilities = np.array([[0.9]] * 6 + [[0.1]] * 6)
        assert thresholds.fit(truth, probabilities, goals.parse("cost:FP=1,FN=4")) == (pytest.approx(0.5),)
        for costs in itertools.permutations((1, 9)):
            goal = goals.parse("cost:FP={},FN={}".format(*costs))
            assert goal.even_threshold == costs[0] / 10

    def test_a_precision_out_of_reach_says_what_can_be_reached(self):
        truth = np.array([1, 0, 1, 1, 0, 1, 1, 0], bool)
        probabilities = np.array([0.8, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
        found = thresholds.points(truth, probabilities)
        with pytest.raises(thresholds.Unreached) as caught:
            thresholds.best(found, goals.parse("recall@precision=0.9"))
        assert caught.value.message == (
            "No threshold reaches a precision of 0.9 on the 8 validation rows; the highest is 0.750, with a recall of 0.600."
        )

    def test_all_labels_out_of_reach_are_named(self):
        truth = np.tile(np.array([[True], [False]]), (10, 3))
        probabilities = np.tile([[0.1], [0.9]], (10, 3))
        probabilities[:, 1] = 1 - probabilities[:, 1]
        with pytest.raises(thresholds.Unreached) as caught:
            thresholds.fit(truth, probabilities, goals.parse("recall@precision=0.9"), label_names=("a", "b", "c"))
        assert str(caught.value).splitlines() == [
            "Some labels cannot reach the goal recall@precision=0.9:",
            *(
                f"  - '{name}': No threshold reaches a precision of 0.9 on the 20 validation rows; the highest is 0.500, "
                "with a recall of 1.000."
                for name in "ac"
            ),
        ]
