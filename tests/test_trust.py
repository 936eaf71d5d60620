"""The report's section on probabilities: what it says, draws and escapes."""

from __future__ import annotations

import dataclasses

import pytest

from tests.test_deciding import bundle, drawn, rows_of
from tests.test_reporting import HOSTILE, Reader, make_evaluation, make_facts
from textlora.deciding import fit_decision, probabilities_of, telling, trust
from textlora.reporting import page
from textlora.reporting.trust import TrustFacts
from textlora.settings import build


def judged(names=("no", "yes"), task="single_label", sharpness=3.0, **values):
    several = task == "multi_label"
    logits, truth = drawn(1_000, len(names), sharpness=sharpness, task=task, seed=3)
    chosen = build({f"decision.{name}": value for name, value in values.items()})
    fitted = fit_decision(bundle(names, task), logits[:400], rows_of(truth[:400], several=several), chosen)
    return trust(probabilities_of(logits[400:], fitted), truth[400:], fitted)


def documents(found, **changes):
    facts = make_facts(evaluation=make_evaluation(trust=found, **changes))
    return Reader(page.html(facts)), page.markdown(facts)


class TestSection:
    def test_before_and_after_stand_side_by_side(self):
        found = judged()
        html, text = documents(found)
        for shown in (html.text, text):
            assert "Probabilities" in shown
            assert "With the temperature" in shown
            assert f"Temperature {found.calibration.temperature:.3g} kept" in shown
            assert f"{100 * found.before.ece:.1f} ({100 * found.before.chance.low:.1f}–" in shown
            assert telling.change_told(found) in shown
        assert len([name for tag, name, value in html.attributes if tag == "line" and value == "bound s2"]) == 15
        assert "Threshold" not in html.text.partition("Probabilities")[2].partition("The most confident")[0]

    def test_without_a_temperature_there_is_one_column(self):
        found = judged(sharpness=1.0, calibrate=False)
        html, text = documents(found)
        assert "| Score | This classifier |" in text
        assert "No temperature was looked for." in html.text
        assert "bound s2" not in [value for _, _, value in html.attributes]

    def test_threshold_and_not_sure(self):
        found = judged(goal="recall@precision=0.8", error_rate=0.1)
        html, text = documents(found)
        for shown in (html.text, text):
            assert f"'yes' is given from a probability of {found.operation.decision.threshold:.3f} on" in shown
            assert "With the threshold" in shown
            assert telling.answers_told(found.answers) in shown
        assert "cost" not in text.partition("## Probabilities")[2].partition("## ")[0]

    def test_the_model_card_says_it_too(self):
        found = judged(goal="f1", error_rate=0.1)
        card = page.model_card(make_facts(evaluation=make_evaluation(trust=found)))
        assert "- The probabilities " in card
        assert telling.decision_told(found.operation.decision) in card
        assert telling.answers_told(found.answers) in card

    def test_costs_have_a_row(self):
        assert "| cost per row |" in documents(judged(goal="cost:FP=1,FN=5"))[1]

    def test_several_labels_say_what_their_thresholds_are_for(self):
        found = judged(("a", "b", "c"), "multi_label", goal="precision@recall=0.9")
        html, text = documents(found, task="multi_label", confusion=())
        assert "was fitted for precision@recall=0.9 on the validation rows" in html.text
        assert "those of all labels" in text

    def test_evaluations_of_older_versions_have_none(self):
        html, text = documents(None)
        assert "Brier" not in html.text + text

    def test_every_row_is_in_a_bin_and_the_picture_says_so(self):
        found = judged()
        picture = str(TrustFacts(found, several=False).picture)
        assert picture.count("<circle") == 30
        assert "Reliability plot: stated" in picture

    @pytest.mark.parametrize("label", HOSTILE)
    def test_labels_are_text(self, label):
        found = judged((label, "no"), goal="f1", positive=label)
        html, text = documents(found)
        assert not {"script", "img"} & set(html.tags)
        assert "<script>" not in text


class TestSentences:
    def found(self, **values):
        return judged(**values).operation

    @pytest.mark.parametrize(
        ("precision", "told"),
        [
            ((0.9, 0.85, 0.95), " The precision of 80.0 % is exceeded."),
            ((0.8, 0.7, 0.9), " The precision of 80.0 % lies within the interval."),
            ((0.7, 0.65, 0.75), " The precision of 80.0 % is missed: what was chosen on few rows need not hold on others."),
        ],
    )  # fmt: skip
    def test_whether_the_goal_is_met(self, precision, told):
        from textlora.interval import Interval

        found = self.found(goal="recall@precision=0.8")
        changed = dataclasses.replace(found, figures={**found.figures, "precision": Interval(*precision)})
        assert telling.operation_told(changed).endswith(told)

    def test_a_promise_that_is_not_kept_is_called_so(self):
        from textlora.interval import Interval

        answers = judged(error_rate=0.1).answers
        assert "as promised (90.0 %; 86.9 to 92.8 with" in telling.answers_told(answers)
        missed = dataclasses.replace(answers, coverage=Interval(0.8, 0.75, 0.85))
        assert "less than promised (90.0 %; " in telling.answers_told(missed)

    def test_lines_for_the_terminal(self):
        lines = telling.lines(judged(goal="f1", error_rate=0.1), several=False)
        assert len(lines) == 7
        assert all(line.endswith(".") for line in lines)
