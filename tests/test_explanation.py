"""Explanations: what a word's weight is, that the search finds the words that matter, and odd texts."""

from __future__ import annotations

import io
import json
import random
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from tests.test_cli import call
from textlora import terminal
from textlora.classifier import Classifier
from textlora.errors import UsageError
from textlora.explanation import explain, levels, log_odds, marked, words
from textlora.types import Explanation, Prediction, Span, without

LABELS = ("bad", "good")
REVIEWS = [
    "A dull, lifeless script. The acting was wonderful though, and I loved the music!",
    "I loved every minute of this wonderful film. Only the ending was a bit slow.",
    "Awful. The worst film that I have seen in years, and a waste of money.",
    "It is a film about two brothers. They buy a boat. Nothing happens, and it is boring beyond words.",
]


class Additive:
    """A classifier whose log odds for "good" are a sum over words; it counts what it is asked."""

    def __init__(self, **weights):
        self.weights = weights
        self.asked = 0

    def __call__(self, texts):
        self.asked += len(texts)
        odds = np.array([sum(self.weights.get(word.strip(".,!?"), 0.0) for word in text.split()) for text in texts])
        good = 1 / (1 + np.exp(-odds))
        return np.stack([1 - good, good], axis=1)


def by_word(explained):
    return {explained.words(span): span.weight for span in explained.spans}


class TestWords:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("", []),
            ("  \n ", []),
            ("...", []),
            ("film", ["film"]),
            ("It's a well-made film, 8.5/10!! :)", ["It's", "a", "well-made", "film", "8.5/10", "!!", ":)"]),
            ("Dull.Really dull, 1,000 times", ["Dull", "Really", "dull", "1,000", "times"]),
            ("déjà-vu naïve", ["déjà-vu", "naïve"]),
            ("日本語の film", ["日", "本", "語", "の", "film"]),
            ("हिन्दी में", ["हिन्दी", "में"]),
            ("🎬🎬 👨‍👩‍👧 ❤️ ok", ["🎬🎬", "👨‍👩‍👧", "❤️", "ok"]),
            ("<script>alert('x')</script>", ["script", "alert", "x", "script"]),
            ("\ud800 \x00 a\u200bb", ["a\u200bb"]),
        ],
    )
    def test_what_is_left_out_as_one(self, text, found):
        assert [text[start:end] for start, end in words(text)] == found

    def test_of_two_spaces_one_goes_along(self):
        text = "a dull film"
        assert without(text, [(2, 6)]) == "a film"
        assert without(text, [(0, 1)]) == "dull film"
        assert without(text, [(7, 11)]) == "a dull"
        assert without(text, [(7, 11), (0, 1)]) == "dull"
        assert without("dull, dull!", [(0, 4)]) == ", dull!"
        assert without("dull", [(0, 4)]) == ""


class TestWeights:
    def test_they_are_the_change_in_log_odds(self):
        (found,) = explain(Additive(good=2.0, dull=-1.0, fine=0.5), ["a good but dull film, fine"], LABELS)
        assert (found.label, found.probability) == ("good", pytest.approx(1 / (1 + np.exp(-1.5))))
        assert by_word(found) == pytest.approx({"a": 0, "good": 2, "but": 0, "dull": -1, "film": 0, "fine": 0.5})
        assert found.complete

    def test_each_span_holds_what_is_left_without_it(self):
        scorer = Additive(good=2.0, dull=-1.0)
        (found,) = explain(scorer, ["good, dull"], LABELS)
        for span in found.spans:
            assert span.probability == scorer([found.without(span)])[0, 1]
            assert span.weight == log_odds(found.probability) - log_odds(span.probability)

    def test_of_another_label_the_signs_are_turned(self):
        scorer, texts = Additive(good=2.0, dull=-1.0), ["good but dull"]
        (bad,), (good,) = (explain(scorer, texts, LABELS, label=label) for label in LABELS)
        assert by_word(bad) == pytest.approx({word: -weight for word, weight in by_word(good).items()})
        assert bad.probability == pytest.approx(1 - good.probability)

    def test_top_k_are_the_strongest_in_the_order_of_the_text(self):
        (found,) = explain(Additive(a=0.1, b=-3.0, c=0.2, d=2.0), ["a b c d"], LABELS, top_k=2)
        assert [found.words(span) for span in found.spans] == ["b", "d"]
        assert [found.words(span) for span in found.strongest] == ["b", "d"]

    def test_certainty_has_a_finite_weight(self):
        (found,) = explain(Additive(good=900.0), ["good"], LABELS)
        assert np.isfinite(found.spans[0].weight)

    def test_several_texts_are_asked_together(self):
        scorer, calls = Additive(good=1.0), []

        def counted(texts):
            calls.append(len(texts))
            return scorer(texts)

        found = explain(counted, ["good film", "", "a"], LABELS)
        assert calls == [3, 3]
        assert [len(explained.spans) for explained in found] == [2, 0, 1]
        assert explain(counted, [], LABELS) == []


class TestLongTexts:
    """More words than forward passes."""

    def text(self, seed, planted, count=3_000):
        draw = random.Random(seed)
        found = [f"word{draw.randrange(500)}" for _ in range(count)]
        for word in planted:
            found[draw.randrange(count)] = word
        for place in range(draw.randint(5, 30), count, draw.randint(5, 30)):
            found[place] += "."
        return " ".join(found)

    @pytest.mark.parametrize("forwards", [64, 128])
    @pytest.mark.parametrize("seed", range(10))
    def test_the_strong_words_are_found_within_the_bound(self, seed, forwards):
        scorer = Additive(great=2.0, awful=-1.5)
        (found,) = explain(scorer, [self.text(seed, ["great", "awful"])], LABELS, forwards=forwards)
        assert scorer.asked <= forwards
        assert not found.complete
        assert [found.words(span).strip(".") for span in found.strongest[:2]] == ["great", "awful"]
        assert [span.weight for span in found.strongest[:2]] == pytest.approx([2, -1.5])

    def test_the_spans_cover_all_words_once(self):
        (found,) = explain(Additive(great=1.0), [self.text(1, ["great"])], LABELS, forwards=50)
        covered = [word for span in found.spans for word in words(found.words(span))]
        assert len(covered) == len(words(found.text))
        assert all(before.end <= after.start for before, after in pairwise(found.spans))

    def test_passages_end_with_sentences(self):
        sentences = [f"The {name} film had a plot and an end." for name in ("first", "second", "third", "fourth") * 12]
        (found,) = explain(Additive(), [" ".join(sentences)], LABELS, forwards=20)
        assert len(found.spans) == 16
        assert all(found.words(span).startswith("The ") for span in found.spans)

    @pytest.mark.parametrize("forwards", range(4, 40))
    def test_no_bound_is_passed(self, forwards):
        scorer = Additive(great=1.0, word3=0.3, word7=-0.2)
        explain(scorer, [self.text(2, ["great"], count=100)], LABELS, forwards=forwards)
        assert scorer.asked <= forwards

    def test_a_text_without_sentences(self):
        (found,) = explain(Additive(great=1.0), ["film " * 400 + "great"], LABELS)
        assert found.words(found.strongest[0]) == "great"


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"label": "goods"}, "There is no label 'goods'. Did you mean 'good'?\nLabels: bad, good."),
            ({"top_k": 0}, "top_k is 0, expected 1 or more."),
            ({"forwards": 3}, "forwards is 3, expected 4 or more."),
        ],
    )
    def test_what_makes_no_sense(self, given, message):
        with pytest.raises(UsageError) as error:
            explain(Additive(), ["a"], LABELS, **given)
        assert str(error.value) == message


class TestMarked:
    def test_pieces_join_to_the_text_and_levels_follow_the_weights(self):
        text = "a great but dull film"
        spans = (Span(2, 7, 3.0, 0.1), Span(8, 11, 0.2, 0.5), Span(12, 16, -1.2, 0.9), Span(17, 21, 1.0, 0.3))
        assert marked(text, spans) == [
            ("a ", 0), ("great", 3), (" but ", 0), ("dull", -2), (" ", 0), ("film", 2),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("weights", "found"),
        [([0.06, -0.06], [0, 0]), ([0.1, -0.2, 0.4], [1, -2, 3]), ([8.0, 0.9, -2.0, 5.0], [3, 0, -1, 2]), ([], [])],
    )
    def test_where_nothing_is_strong_nothing_looks_strong(self, weights, found):
        assert levels([Span(0, 1, weight, 0.5) for weight in weights]) == found

    def test_what_lies_behind_a_cut_is_not_marked(self):
        assert marked("a gre…", (Span(2, 7, 3.0, 0.1),)) == [("a gre…", 0)]
        assert marked("", ()) == []


class TestClassifier:
    @pytest.fixture(scope="class")
    def classifier(self, example_run):
        return Classifier.from_pretrained(example_run, device="cpu")

    @pytest.fixture(scope="class")
    def explained(self, classifier):
        return classifier.explain(REVIEWS)

    def test_removing_a_word_does_what_its_span_says(self, classifier, explained):
        for found, prediction in zip(explained, classifier.predict(REVIEWS), strict=True):
            assert (found.label, found.probability) == (
                prediction.label,
                pytest.approx(prediction.probability, abs=5e-3),
            )
            spans = found.strongest[:3]
            table = classifier.predict_proba([found.without(span) for span in spans])
            left = table[:, classifier.label_names.index(found.label)]
            assert [span.probability for span in spans] == pytest.approx(left, abs=0.01)

    def test_the_heaviest_words_together_weigh_more_than_others(self, classifier, explained):
        for found in explained:
            column = classifier.label_names.index(found.label)
            ordered = sorted(found.spans, key=lambda span: -span.weight)
            heavy, light = found.without(*ordered[:3]), found.without(*ordered[-3:])
            with_light, with_heavy = classifier.predict_proba([heavy, light])[:, column]
            assert with_light < found.probability
            assert with_light < with_heavy

    @pytest.mark.parametrize(
        "text", ["", " ", "film", "<script>alert(1)</script>", "日本語 🎬 naïve", "\ud800", "good " * 900, "?!"]
    )
    def test_any_text(self, classifier, text):
        (found,) = classifier.explain([text], forwards=16)
        assert found.text == text
        assert found.probability == classifier.predict([text])[0].probability
        assert all(text[span.start : span.end].strip() for span in found.spans)
        assert len(found.spans) <= 15

    def test_what_the_classifier_does_not_see_has_no_weight(self, classifier):
        text = f"A dull film. {'xylophone ' * 900}What a dull film."
        (found,) = classifier.explain([text], forwards=60)
        unseen = [span for span in found.spans if 6_000 < span.start < 7_000]
        assert unseen
        assert {abs(span.weight) < 0.1 for span in unseen} == {True}

    def test_one_text_without_a_list_is_refused(self, classifier):
        with pytest.raises(UsageError) as error:
            classifier.explain("good film")
        assert str(error.value) == 'explain takes a list of texts, and got one text.\nWrite explain(["…"]).'

    def test_front_door(self):
        import textlora

        assert textlora.Explanation is Explanation


FOUND = (Span(5, 9, 1.5, 0.6), Span(14, 18, -0.5, 0.95))


class TestCommandLine:
    def test_plain_text(self, example_run):
        result = call("predict", example_run, REVIEWS[2], "", "--explain")
        assert result.code == 0, result.err
        first, *lines = result.out.splitlines()
        assert first.startswith("negative  0.")
        assert "\x1b" not in result.out
        (explained,) = Classifier.from_pretrained(example_run).explain([REVIEWS[2]])
        told = sorted(
            (span for span, level in zip(explained.spans, levels(explained.spans), strict=True) if level),
            key=lambda span: -abs(span.weight),
        )[:10]
        shown = [line.split() for line in lines if " without  " in line]
        assert len(shown) == len(told)
        for words_of_line, span in zip(shown, told, strict=True):
            weight, probability, _, left, _, *_ = words_of_line
            assert float(weight) == pytest.approx(span.weight, abs=0.03)
            assert float(probability) == pytest.approx(explained.probability, abs=0.01)
            assert float(left) == pytest.approx(span.probability, abs=0.01)
        assert lines[-1] == "  no words"

    def test_json(self, example_run):
        found = json.loads(call("predict", example_run, REVIEWS[0], "--explain", "--json").out)
        (explained,) = found["explanations"]
        assert explained["text"] == REVIEWS[0]
        assert explained["label"] == found["predictions"][0]["label"]
        assert set(explained["spans"][0]) == {"start", "end", "weight", "probability"}
        assert set(json.loads(call("predict", example_run, "Fine.", "--json").out)) == {"predictions"}

    def test_a_file_is_refused(self, example_run, tmp_path):
        result = call("predict", example_run, "a.csv", "--out", tmp_path / "b.csv", "--explain")
        assert (result.code, result.err) == (
            2, "error: --explain is for texts, not for a file with --out.\nGive single texts to explain.\n",
        )  # fmt: skip

    def shown(self, *, terminal_like, complete=True, spans=FOUND):
        text = "a [b]good[/b] dull film"
        explained = Explanation(text, "good", 0.9, spans, complete)
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal_like, markup=False, highlight=False, width=100)
        terminal.show_explanations([Prediction("good", 0.9, {}, True)], [explained], console)
        return stream.getvalue()

    def test_colours_on_a_terminal(self):
        shown = self.shown(terminal_like=True)
        assert "a [b]\x1b[1;7;32mgood\x1b[0m[/b] \x1b[1;31mdull\x1b[0m film" in shown
        assert "(truncated)" in shown

    def test_the_user_s_markup_stays_text_and_nothing_is_coloured_elsewhere(self):
        assert self.shown(terminal_like=False, complete=False) == (
            "good  0.900  a [b]good[/b] dull film  (truncated)\n"
            "   +1.50  0.900 -> 0.600 without  good\n"
            "   -0.50  0.900 -> 0.950 without  dull\n"
            "  a long text: its passages were left out first, then the words of the strongest ones\n"
        )

    def test_nothing_to_tell(self):
        assert "  no word alone changes the probability much\n" in self.shown(
            terminal_like=False, spans=(Span(0, 1, 0.0, 0.9),)
        )
