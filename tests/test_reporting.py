"""The three documents: complete, self-contained, safe for any text, honest about doubt."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from textlora import settings, storage
from textlora.errors import ResourceError, UsageError
from textlora.evaluation import evaluate
from textlora.reporting import card, figures, page, report, wording
from textlora.reporting.facts import Facts
from textlora.types import (
    Baseline,
    ClassScores,
    Curve,
    Dataset,
    DatasetInfo,
    Estimate,
    Evaluation,
    Finding,
    Interval,
    Leakage,
    Machine,
    Mistake,
    Plan,
    RowCounts,
    Run,
    Slice,
    Span,
    Split,
    TokenLengths,
)

DATA = "d" * 64
HOSTILE = (
    "<script>alert(1)</script>", "$x$ and $$y$$", "{{7*7}}", "{% raw %}", "<img src=x onerror=alert(2)>", "</style><b>bold</b>",
    '"quoted" & \'single\'', "a|b`c`", "**strong** _soft_ [link](javascript:alert(3))", "line\nbreak", "[bold]x[/red]", "-->", "שלום עולם",
)  # fmt: skip


# --- a realistic run by hand --------------------------------------------------------------


def make_dataset(names=("negative", "positive"), **changes):
    classes = len(names)
    info = DatasetInfo(
        source="data/reviews.csv",
        text_column="review",
        label_column="sentiment",
        task="single_label",
        label_names=tuple(names),
        seed=42,
        counts=RowCounts(read=5010, unsampled=0, kept=5000, quarantined={"duplicate": 8, "missing_label": 2}),
        split_counts={
            "train": (4000 // classes,) * classes,
            "validation": (500 // classes,) * classes,
            "test": (500 // classes,) * classes,
        },
        findings=(
            Finding("duplicate", "info", "Exact duplicates were removed.", 8),
            Finding("long", "warning", "Many texts are cut.", 700),
        ),
        token_lengths=TokenLengths(
            "embedded",
            512,
            (5, 60, 110, 210, 340, 560, 700, 1100, 2400),
            260.0,
            230.0,
            700,
            0.115,
            (10, 200, 400, *[50] * 28, 90),
        ),
        fingerprint=DATA,
    )
    empty = Split((), (), ())
    return Dataset(Path("runs/reviews"), dataclasses.replace(info, **changes), empty, empty, empty)


def make_plan(**changes):
    machine = Machine(
        "AMD EPYC", 2, 16.0, 14.0, None, None, None, ("avx512_bf16",), {"fp32": 430.0, "bf16": 812.0}, "Linux 6.1"
    )
    estimate = Estimate(600.0, 12.0, 2.0, 0.2, 23_000_000, 1_400_000, 1_000_000, 375)
    chosen = settings.build(
        {"text.max_length": 512, "compute.device": "cpu", "lora.target_modules": ["q_lin", "v_lin"]}
    )
    plan = Plan(
        chosen,
        {"compute.device": "no GPU was found", "lora.target_modules": "two per layer"},
        "default",
        DATA,
        2,
        machine,
        estimate,
    )
    return dataclasses.replace(plan, **changes)


def make_history():
    entries = []
    for step in range(5, 376, 5):
        entries.append(
            {"step": step, "epoch": step / 125, "loss": 0.7 - step / 800, "learning_rate": 5e-4 * (1 - step / 375)}
        )
        if step % 125 == 0:
            scores = {
                "eval_loss": 0.4 - step / 2000,
                "eval_accuracy": 0.85 + step / 5000,
                "eval_f1_macro": 0.84 + step / 5000,
            }
            entries.append({"step": step, "epoch": step / 125, **scores})
    return (*entries, {"step": 375, "epoch": 3.0, "train_runtime": 612.0, "train_loss": 0.46})


def make_run(names=("negative", "positive"), **changes):
    run = Run(
        folder=Path("runs/reviews"),
        base_model="embedded",
        architecture="DistilBertForSequenceClassification",
        recipe="default",
        seed=42,
        label_names=tuple(names),
        history=make_history(),
        epochs=3.0,
        steps=375,
        best_step=250,
        best_metric=0.931,
        final_training_loss=0.2345,
        mean_training_loss=0.4567,
        total_parameters=23_000_000,
        trainable_parameters=1_400_000,
        seconds=612.0,
        cpu_seconds=1190.0,
        peak_memory_gb=2.21,
        tokens_per_second=8123.0,
        reload_difference=0.0,
        stopped_early=False,
        versions={"textlora": "0.1.0", "torch": "2.13.0"},
        dataset_fingerprint=DATA,
        plan_fingerprint="e" * 64,
        command="textlora fit data/reviews.csv --out runs/reviews",
    )
    return dataclasses.replace(run, **changes)


def around(value, half=0.02):
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def make_metrics(accuracy, half=0.02):
    shares = dict.fromkeys(wording.SHARES, around(accuracy, half))
    ranked = {"mcc": around(2 * accuracy - 1), "roc_auc": around(0.97), "average_precision": around(0.96)}
    return {**shares, **ranked, "log_loss": Interval(0.21, 0.18, 0.25)}


CLEAR_GAIN = Interval(0.03, 0.01, 0.05)


def make_baselines(gain=CLEAR_GAIN):
    return (
        Baseline("majority class", "always says 'negative'", make_metrics(0.5), 0.001, Interval(0.43, 0.39, 0.47)),
        Baseline("TF-IDF + logistic regression", "words and word pairs, C = 4", make_metrics(0.9), 2.5, gain),
    )


def make_evaluation(names=("negative", "positive"), **changes):
    classes = len(names)
    right, wrong = 465 // classes, 35 // classes
    confusion = tuple(
        tuple(right if i == j else (wrong if j == (i + 1) % classes else 0) for j in range(classes))
        for i in range(classes)
    )
    curves = tuple(
        Curve(name, (0.0, 0.1, 1.0), (0.0, 0.9, 1.0), 0.97) for name in (names[-1:] if classes == 2 else names)
    )
    evaluation = Evaluation(
        split="test",
        rows=500,
        label_names=tuple(names),
        metrics=make_metrics(0.93),
        classes=tuple(ClassScores(name, around(0.93), around(0.93), around(0.93), 500 // classes) for name in names),
        confusion=confusion,
        roc=curves,
        precision_recall=curves,
        by_length=(
            Slice("0–64", 100, around(0.95), "length", 0.92, 0.004, "better"),
            Slice("over 512", 400, around(0.92), "length", 0.95, 0.004, "worse"),
        ),
        mistakes=(Mistake("row-7", "A fine film, they say.", names[0], names[1], 0.987),),
        baselines=make_baselines(),
        seconds=11.0,
        dataset_fingerprint=DATA,
        run_fingerprint="f" * 64,
    )
    return dataclasses.replace(evaluation, **changes)


def make_facts(**parts):
    nouns = {"dataset": make_dataset(), "plan": make_plan(), "run": make_run(), "evaluation": make_evaluation()}
    return Facts(**(nouns | parts))


def nouns_of(facts):
    return {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}


def hostile_facts():
    """Every place that holds the user's own words holds hostile ones."""
    labels = ("<b>no</b>", "yes|{{7*7}}")
    names = make_evaluation(labels)
    mistakes = tuple(
        Mistake(f"<i>{place}</i>", text, labels[0], labels[1], 0.9)
        for place, text in enumerate((*HOSTILE, " ".join(HOSTILE) * 9))
    )
    dataset = make_dataset(
        labels,
        source="data/<script>alert(4)</script>$x$.csv",
        text_column="<u>text</u>",
        label_column="la`bel|<s>",
        findings=(Finding("typo", "warning", "<em>{{7*7}}</em> looks like `x|y`", 3),),
    )
    plan = make_plan(reasons={"lora.r": "because <script>alert(5)</script>"})
    run = make_run(labels, command="textlora fit '<script>alert(6)</script>' ```")
    return Facts(dataset, plan, run, dataclasses.replace(names, mistakes=mistakes))


class Reader(HTMLParser):
    """Collects tags, attributes and visible text of a page, and checks that tags close."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


# --- the page -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    return page.html(make_facts())


def test_the_page_is_one_file_without_scripts_or_requests(plain):
    read = Reader(plain)
    assert read.open == []
    assert not {"script", "iframe", "object", "img", "form"} & set(read.tags)
    assert [name for _, name, _ in read.attributes if name.startswith("on")] == []
    links = {value for _, name, value in read.attributes if name in ("href", "src")}
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "url(" not in plain
    assert "@import" not in plain
    assert "http://" not in plain
    assert "https://" not in plain
    assert (
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        in plain
    )


def test_a_gpus_memory_stands_beside_the_hosts():
    facts = make_facts(run=make_run(peak_gpu_memory_gb=4.1, predicted_gpu_memory_gb=3.9))
    text = Reader(page.html(facts)).text
    assert "Peak memory 2.0 GB 2.2 GB ×1.10 Peak GPU memory 3.9 GB 4.1 GB ×1.05" in text
    assert "Peak GPU memory 4.1 GB" in text
    assert "2.2 GB of memory at the peak, 4.1 GB on the GPU" in text
    assert "| Peak GPU memory | 3.9 GB | 4.1 GB | ×1.05 |" in page.markdown(facts).replace("\u00a0", " ")


def test_every_link_inside_the_page_has_a_target(plain):
    read = Reader(plain)
    targets = {value for _, name, value in read.attributes if name == "id"}
    assert {value[1:] for _, name, value in read.attributes if name == "href" and value.startswith("#")} <= targets


def test_the_page_serves_light_dark_phone_and_paper(plain):
    for rule in ("prefers-color-scheme: dark", "@media print", "size: A4", "break-inside: avoid", "@media (max-width"):
        assert rule in plain
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in plain


def test_pictures_are_described_and_tables_have_scopes(plain):
    read = Reader(plain)
    pictures = [value for tag, name, value in read.attributes if (tag, name) == ("svg", "aria-label")]
    assert pictures == [
        "ROC curves with areas: positive 0.970.",
        "Precision-recall curves with areas: positive 0.970.",
        "Histogram of text lengths, mean 260 tokens; 700\u00a0rows are longer than 512.",
        "Training loss from 0.694 to 0.231. Validation loss from 0.338 to 0.213.",
        "Validation accuracy from 87.5\u00a0% to 92.5\u00a0%.",
        "Learning rate with a peak of 0.000493.",
    ]
    assert read.tags.count("th") == sum(1 for tag, name, _ in read.attributes if (tag, name) == ("th", "scope"))


def test_the_first_screen_answers_the_four_questions(plain):
    first = Reader(plain).text.split("Scores Errors")[0]
    assert "93.0 % of 500 rows classified correctly in the test split. 95 % interval 91.0–95.0 %" in first
    assert (
        "Clearly better than the baseline TF-IDF + logistic regression: +3.0 points of accuracy, 95 % interval +1.0 to +5.0."
        in first
    )
    assert (
        "How sure that is With 95 % confidence accuracy is 91.0–95.0 % on further rows of this kind: as far as 500 rows of the test split can tell."
        in first
    )
    assert "No text stands in two splits (8 rows set aside for that)." in first
    assert "Clearly worse: texts of over 512 tokens. 92.0 % right (90.0–94.0 %), 400 rows; the rest 95.0 %." in first
    assert "10 min 12 s of training, 2.2 GB of memory at the peak" in first
    assert "6.09 % of 23,000,000 parameters trained" in first


def test_the_page_holds_the_facts_of_every_section(plain):
    text = Reader(plain).text
    for fact in (
        "5,010 rows read from data/reviews.csv = 5,000 kept + 10 set aside",
        "missing label 2",
        "Warning: Many texts are cut. (700 rows)",
        "2,000 50.0 %",
        "Trained share 6.09 % (1,400,000 of 23,000,000 parameters)",
        "Epochs 3 (375 steps)",
        "Kept checkpoint step 250, validation accuracy 93.1 %",
        "Final training loss 0.2345 (mean of the whole training 0.4567)",
        "Training time 10 min 0 s 10 min 12 s ×1.02",
        "Peak memory 2.0 GB 2.2 GB ×1.10 Optimiser steps",
        "compute.device cpu no GPU was found",
        "lora.target_modules q_lin, v_lin two per layer",
        "training.batch_size 32 default of the setting",
        "textlora fit data/reviews.csv --out runs/reviews",
        "torch 2.13.0",
        "Processor AMD EPYC, 2 cores",
        "Measured GFLOP/s fp32 430, bf16 812",
        "labelled negative predicted positive , 98.7 % row row-7 A fine film, they say.",
        "cut at 512",
        "e" * 64,
    ):
        assert fact in text, fact


def test_every_setting_stands_in_the_plan(plain):
    text = Reader(plain).text
    assert [name for name in settings.setting_names() if name not in text] == []


def test_hostile_text_stays_text():
    html = page.html(hostile_facts())
    read = Reader(html)
    assert read.open == []
    assert not {"script", "img", "i2", "u", "s", "em"} & set(read.tags)
    assert [value for _, name, value in read.attributes if name.startswith("on") or "javascript" in value] == []
    assert "49" not in re.sub(r"<svg.*?</svg>", "", read.text)
    for text in HOSTILE:
        assert " ".join(text.split()) in read.text
    for text in (
        "<b>no</b>",
        "yes|{{7*7}}",
        "because <script>alert(5)</script>",
        "<u>text</u>",
        "<script>alert(4)</script>$x$.csv",
    ):
        assert text in read.text
    assert html.count("</style>") == 1


def test_hostile_labels_in_the_curves_stay_text():
    facts = make_facts(evaluation=make_evaluation(('a" onload="x', "<b>", "$c$")))
    read = Reader(page.html(facts))
    labels = [value for tag, name, value in read.attributes if (tag, name) == ("svg", "aria-label")]
    assert labels[0] == 'ROC curves with areas: a" onload="x 0.970, <b> 0.970, $c$ 0.970.'
    assert "onload" not in {name for _, name, _ in read.attributes}


def test_a_long_mistake_is_folded():
    long = "A sentence of six short words. " * 40
    mistakes = (Mistake("1", long, "negative", "positive", 0.99999),)
    html = page.html(make_facts(evaluation=make_evaluation(mistakes=mistakes)))
    assert html.count("<details>") == 1
    assert long.strip() in Reader(html).text
    assert "predicted positive , over 99.9 %" in Reader(html).text


HIGHLIGHTED = Mistake(
    "1", "A <script>dull</script> & lovely [film](x) | a*b", "negative", "positive", 0.9,
    (Span(10, 14, -2.0, 0.99), Span(26, 32, 1.6, 0.645), Span(34, 38, 0.01, 0.9), Span(47, 48, 0.8, 0.802)),
)  # fmt: skip


def test_the_words_that_carried_a_mistake_are_highlighted():
    html = page.html(make_facts(evaluation=make_evaluation(mistakes=(HIGHLIGHTED,))))
    assert (
        'A &lt;script&gt;<mark class="against3">dull</mark>&lt;/script&gt; &amp; <mark class="for3">lovely</mark>'
        ' [film](x) | a*<mark class="for2">b</mark></p>'
    ) in html
    told = Reader(html).text
    assert "Carried by lovely (without it 64.5 %) , b (without it 80.2 %) ." in told


def test_they_are_named_in_markdown():
    text = page.markdown(make_facts(evaluation=make_evaluation(mistakes=(HIGHLIGHTED,))))
    assert "| 90.0 % | lovely (64.5 %), b (80.2 %) | A &lt;script&gt;dull" in text.replace("\u00a0", " ")


def test_a_mistake_that_no_part_carried_says_so():
    even = dataclasses.replace(HIGHLIGHTED, spans=(Span(26, 32, 0.05, 0.895),))
    html = page.html(make_facts(evaluation=make_evaluation(mistakes=(even,))))
    assert "No part of it alone carried the answer." in html
    assert "<mark" not in html.partition("against it:")[2]


def test_a_mistake_of_an_older_evaluation_has_no_highlights():
    plain = dataclasses.replace(HIGHLIGHTED, spans=())
    html = page.html(make_facts(evaluation=make_evaluation(mistakes=(plain,))))
    assert "Carried by" not in html
    assert "A &lt;script&gt;dull&lt;/script&gt; &amp; lovely [film](x) | a*b</p>" in html


def test_many_classes_give_a_list_instead_of_a_matrix():
    names = tuple(f"topic {number}" for number in range(20))
    facts = make_facts(dataset=make_dataset(names), run=make_run(names), evaluation=make_evaluation(names))
    html = page.html(facts)
    text = Reader(html).text
    assert 'class="matrix"' not in html
    assert "topic 0 topic 1 1 4.2 %" in text
    assert "One line per label, 20 in all." in text
    assert "| topic 0 | topic 1 | 1 | 4.2 % |" in page.markdown(facts)


def test_a_run_with_little_to_show():
    """No findings, no lengths, no history, no baselines, no mistakes, undefined ranking scores."""
    metrics = {
        name: value for name, value in make_metrics(1.0, half=0).items() if name not in ("roc_auc", "average_precision")
    }
    metrics["accuracy"] = Interval(1.0, 0.839, 1.0)
    bare = make_evaluation(
        metrics=metrics,
        roc=(),
        precision_recall=(),
        mistakes=(),
        baselines=(),
        rows=20,
        by_length=(Slice("0–64", 20, around(1)),),
        confusion=((10, 0), (0, 10)),
    )
    facts = make_facts(
        dataset=make_dataset(findings=(), token_lengths=None, counts=RowCounts(20, 0, 20)),
        run=make_run(history=(), command="", best_step=0, stopped_early=True),
        evaluation=bare,
    )
    text = Reader(page.html(facts)).text
    assert "No mistake in 20 rows does not mean none: the true error may be up to 16.1 %." in text
    assert "Only 20 rows were scored: read the intervals, not the single figures." in text
    assert "No baseline was scored, so nothing says whether a cheaper method does as well." in text
    assert "It made no mistake on these rows." in text
    assert "Epochs 3 (375 steps, stopped early)" in text
    assert "The run was started from Python." in text
    assert "ROC-AUC chance" not in text
    assert "<svg" not in page.html(facts)
    assert "20 rows read from data/reviews.csv = 20 kept + 0 set aside." in page.markdown(facts)


def test_a_history_with_one_validation_and_broken_values_is_drawn():
    history = (
        {"step": 1, "loss": float("nan"), "learning_rate": 0.0},
        {"step": 2, "eval_loss": 0.5, "eval_accuracy": 0.8},
    )
    html = page.html(make_facts(run=make_run(history=history, steps=2, best_step=2)))
    assert "nan" not in Reader(html).text.lower().replace("finance", "")
    assert "Validation loss from 0.500 to 0.500." in html


# --- judgement ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "tone", "start"),
    [
        (
            Interval(0.03, 0.01, 0.05),
            "good",
            "Clearly better than the baseline TF-IDF + logistic regression: +3.0 points",
        ),
        (
            Interval(0.03, -0.01, 0.07),
            "unclear",
            "Not clearly better than the baseline TF-IDF + logistic regression: +3.0 points",
        ),
        (
            Interval(0.0, -0.005, 0.005),
            "unclear",
            "No better than the baseline TF-IDF + logistic regression by more than a point",
        ),
        (
            Interval(-0.03, -0.05, -0.01),
            "bad",
            "Clearly worse than the baseline TF-IDF + logistic regression: −3.0 points",
        ),
    ],
)
def test_the_verdict_follows_the_interval_of_the_difference(gain, tone, start):
    facts = make_facts(evaluation=make_evaluation(baselines=make_baselines(gain)))
    verdict = facts.verdicts[0]
    assert verdict.tone == tone
    assert verdict.sentence.startswith(start)


@pytest.mark.parametrize(("accuracy", "tone"), [(0.96, "good"), (0.92, "unclear"), (0.80, "bad")])
def test_without_a_paired_difference_the_intervals_must_not_overlap(accuracy, tone):
    baselines = make_baselines(None)
    assert (
        make_facts(evaluation=make_evaluation(metrics=make_metrics(accuracy), baselines=baselines)).verdicts[0].tone
        == tone
    )


def spots(**changes):
    return [spot.replace("\u00a0", " ") for spot in make_facts(evaluation=make_evaluation(**changes)).weak_spots]


WORSE = (
    Slice("negative", 250, around(0.97), "label", 0.88, 0.001, "better"),
    Slice("positive", 250, around(0.88), "label", 0.97, 0.001, "worse"),
    Slice("yes", 200, around(0.85, 0.04), "truncated", 0.97, 0.0004, "worse"),
    Slice("x|<b>", 9, around(0.85, 0.2), "column:shop", 0.93, 1.0, "unknown"),
)


def test_weak_spots_are_named_only_where_a_test_carries_them():
    assert spots(by_length=(), slices=WORSE, confusion=((240, 10), (30, 220))) == [
        "Clearly worse: texts of which a part was not seen. 85.0 % right (81.0–89.0 %), 200 rows; the rest 97.0 %.",
        "Clearly worse: label “positive”. 88.0 % right (86.0–90.0 %), 250 rows; the rest 97.0 %.",
        "Most frequent confusion: “positive” taken for “negative”, 30 rows.",
        "It can be sure and wrong: its most confident mistake had 98.7 %.",
    ]


def test_without_a_worse_part_it_says_what_was_looked_at_and_where_rows_are_too_few():
    parts = (dataclasses.replace(WORSE[0], verdict="same"), WORSE[3])
    assert spots(by_length=(), slices=parts)[0] == (
        "No part of the data is clearly worse than the rest (looked at: labels, shop; 2 parts, tests corrected for their number). "
        "Too few rows to tell: shop “x|<b>”."
    )


def test_an_evaluation_of_an_older_version_has_no_tests_of_parts():
    assert spots(by_length=(Slice("0–64", 100, around(0.95)),))[0].startswith("Most frequent confusion")


def test_parts_of_the_data_stand_in_a_table():
    facts = make_facts(evaluation=make_evaluation(slices=WORSE))
    text = Reader(page.html(facts)).text
    assert "label “positive” 250 88.0 % 86.0–90.0 97.0 % worse than the rest p = 0.001" in text
    assert "shop “x|<b>” 9 85.0 % 65.0–100.0 93.0 % too few rows to tell" in text
    table = rows_of(page.markdown(facts), "| Part of the data")
    assert ["label “positive”", "250", "88.0 % (86.0–90.0)", "97.0 %", "worse than the rest (p = 0.001)"] in table
    assert "| Part of the data" not in page.markdown(make_facts())


def certain(options=None, findings=(), **changes):
    facts = make_facts(
        dataset=make_dataset(options=options or {}, findings=findings), evaluation=make_evaluation(**changes)
    )
    return [line.replace("\u00a0", " ") for line in facts.certainty]


def test_what_was_done_against_leaks_is_said():
    usual = {"data.near_duplicates": 0.8, "data.group_column": None, "data.time_column": None, "test": None}
    assert certain(usual)[1:] == [
        "No text stands in two splits (8 rows set aside for that).",
        "There are no near-duplicates.",
    ]
    found = Finding("near_duplicates", "info", "some", 42)
    assert certain(usual, (found,))[2] == "Near-duplicates stay in one split: 42 rows are some."
    assert certain(usual | {"data.near_duplicates": 0.0})[2] == (
        "Near-duplicates were not looked for: copies with small changes may stand in training."
    )
    assert certain(usual | {"data.group_column": "author", "data.time_column": "day"})[3:] == [
        "Groups of “author” stay in one split: the test knows none from training.",
        "Split by “day”: it was tested on newer rows than it learnt from.",
    ]
    assert (
        "as far as 500 rows of the test split, in 40 groups that count as one draw each, can tell."
        in certain(groups=40)[0]
    )


def test_few_groups_carry_a_caution():
    assert make_facts(evaluation=make_evaluation(groups=12)).cautions == [
        "The rows are of 12 groups only: how groups differ is hardly known, and the intervals are rough."
    ]
    assert make_facts(evaluation=make_evaluation(groups=1)).cautions == [
        "All rows are of one group: the intervals hold for further rows of this group, not for others."
    ]
    assert make_facts(evaluation=make_evaluation(groups=40)).cautions == []


def test_the_verdict_asks_the_test_too_and_says_how_many_rows_would_tell():
    tested = [dataclasses.replace(baseline, p_value=0.2) for baseline in make_baselines(Interval(0.03, -0.01, 0.07))]
    verdict = make_facts(evaluation=make_evaluation(baselines=tuple(tested))).verdicts[0]
    assert verdict.tone == "unclear"
    assert verdict.sentence.replace("\u00a0", " ") == (
        "Not clearly better than the baseline TF-IDF + logistic regression: +3.0 points of accuracy, 95 % interval −1.0 to +7.0, "
        "p = 0.2. To be sure of a difference of this size takes about 1,800 rows."
    )


def leaking(rows=12):
    others = {name: found for name, found in make_metrics(0.9).items() if name != "log_loss"}
    return make_facts(evaluation=make_evaluation(leakage=Leakage(rows, around(0.99, 0.01), others)))


@pytest.mark.parametrize(("rows", "words"), [(12, "are near-duplicates"), (1, "is a near-duplicate")])
def test_leaked_rows_carry_a_caution_and_the_scores_without_them(rows, words):
    facts = leaking(rows)
    without = "it" if rows == 1 else "them"
    (caution,) = facts.cautions
    assert caution.replace("\u00a0", " ") == (
        f"{rows} of the 500 rows {words} of training rows; without {without} accuracy is 90.0 % (88.0–92.0 %)."
    )
    written = page.markdown(facts)
    assert "| Metric | This classifier | Without leaked rows | TF-IDF" in written
    assert re.search(r"\| Accuracy \| 93.0.% \(91.0–95.0\) \| 90.0.% \(88.0–92.0\) \|", written)
    assert re.search(r"\| Log loss \| [^|]+ \| – \|", written)
    assert ">Without leaked rows</th>" in page.html(facts)
    assert "Without leaked rows" not in page.html(make_facts())


def test_where_all_rows_are_leaked_there_is_no_column_of_nothing():
    facts = make_facts(evaluation=make_evaluation(leakage=Leakage(500, around(0.93), {})))
    assert facts.cautions[0].endswith("are near-duplicates of training rows: the scores say little about new texts.")
    assert [name for name, _ in facts.columns] == [baseline.name for baseline in facts.baselines]


@pytest.mark.parametrize(
    ("split", "words"),
    [("validation", "the validation split, which also chose the checkpoint"), ("train", "the rows it was trained on")],
)
def test_scores_on_seen_rows_carry_a_caution(split, words):
    facts = make_facts(evaluation=make_evaluation(split=split))
    assert facts.cautions == [f"These scores are on {words}: they flatter the classifier."]
    assert "took no part in training" not in page.model_card(facts)


def test_a_low_number_of_rows_and_the_usual_case():
    assert make_facts().cautions == []
    assert make_facts(evaluation=make_evaluation(rows=1)).cautions == [
        "Only 1\u00a0row were scored: read the intervals, not the single figures."
    ]


# --- Markdown -----------------------------------------------------------------------------


def rows_of(markdown, start):
    lines = markdown.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(start))
    return list(iter_table(lines[first:]))


def iter_table(lines):
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_markdown_tables_are_whole():
    text = page.markdown(make_facts())
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|(-+:?\|)+", line):
            table = list(iter_table(lines[number - 1 :]))
            assert len({len(row) for row in table}) == 1
            assert len(table) > 2
    scores = rows_of(text, "| Metric")
    assert scores[0] == ["Metric", "This classifier", "TF-IDF + logistic regression", "majority class"]
    assert scores[2] == ["Accuracy", "93.0 % (91.0–95.0)", "90.0 % (88.0–92.0)", "50.0 % (48.0–52.0)"]
    assert len(scores) == 2 + len(wording.METRICS)
    assert rows_of(text, "| | negative")[2] == ["**negative**", "232 (93.2 %)", "17 (6.8 %)"]
    assert ["`compute.device`", "cpu", "no GPU was found"] in rows_of(text, "| Setting")
    assert "median 210, longest 2,400." in text
    assert "```sh\ntextlora fit data/reviews.csv --out runs/reviews\n```" in text
    assert "\n\n\n" not in text


def test_hostile_text_stays_text_in_markdown():
    text = page.markdown(hostile_facts())
    assert len(rows_of(text, "| Row |")) == 2 + len(HOSTILE) + 1
    assert {len(row) for row in rows_of(text, "| Row |")} == {6}
    outside = re.sub(r"(`+)[^`].*?\1", "", text, flags=re.DOTALL)
    assert "<" not in outside
    assert "49" not in outside
    assert r"\[link\](javascript:alert(3))" in text
    assert r"\$x\$ and \$\$y\$\$" in text
    assert r"a\|b\`c\`" in text
    assert "| line break |" in text
    assert "````sh\ntextlora fit '<script>alert(6)</script>' ```\n````" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [("plain", "`plain`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("a|b\nc", "`a\\|b c`"), (3, "`3`")],
)
def test_code_spans(value, expected):
    assert page.code(value) == expected


# --- the model card -----------------------------------------------------------------------


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_model_card_is_one_that_the_hub_reads():
    from huggingface_hub import ModelCard

    facts = make_facts()
    loaded = ModelCard(page.model_card(facts)).data
    assert loaded.library_name == "peft"
    assert loaded.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert loaded.pipeline_tag == "text-classification"
    results = {result.metric_type: result for result in loaded.eval_results}
    assert results["accuracy"].metric_value == 0.93
    assert results["f1"].metric_name == "F1 (macro)"
    assert results["accuracy"].dataset_name == "reviews.csv"
    assert results["accuracy"].dataset_split == "test"
    assert len(results) == len(facts.evaluation.metrics)


def test_the_model_index():
    text = page.model_card(make_facts(dataset=make_dataset(source="in/my reviews.csv.xz")))
    assert front_matter(text)["model-index"][0]["name"] == "my-reviews-sentiment"
    assert "It gives each text one of 2 labels: `negative`, `positive`.\n" in text
    (entry,) = front_matter(page.model_card(make_facts()))["model-index"]
    assert entry["name"] == "reviews-sentiment"
    (result,) = entry["results"]
    assert result["task"] == {"type": "text-classification", "name": "Text classification"}
    assert result["dataset"] == {"name": "reviews.csv", "type": "reviews", "split": "test"}
    assert {"type": "matthews_correlation", "value": 0.8600000000000001, "name": "Matthews correlation"} in result[
        "metrics"
    ]


def test_labels_that_yaml_would_read_as_something_else_stay_strings():
    names = ("no", "yes", "on", "null", "1.0", "2024-01-01", "a: b", "# c", "---", "ja\nnein")
    facts = make_facts(dataset=make_dataset(names, source="no"), run=make_run(names), evaluation=make_evaluation(names))
    assert front_matter_of_many(page.model_card(facts))["labels"] == list(names)


def front_matter_of_many(text):
    """Split at whole lines of three hyphens, as the hub does, since a label may be one."""
    return yaml.safe_load(re.split(r"(?m)^---$\n", text)[1])


def test_a_hostile_source_cannot_leave_the_front_matter():
    dataset = make_dataset(source="x.csv\n---\nlicense: mit", label_column="a: [b")
    card_text = page.model_card(make_facts(dataset=dataset))
    data = front_matter_of_many(card_text)
    assert "license" not in data
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "x.csv\n---\nlicense: mit"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embedded", "sentence-transformers/all-MiniLM-L6-v2"),
        ("distilbert-base-uncased", "distilbert-base-uncased"),
        ("FacebookAI/xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
        ("/home/somebody/models/mine", None),
        ("./mine", None),
        ("../mine", None),
    ],
)
def test_the_base_model_on_the_hub(name, expected):
    assert card.base_model(name) == expected


def test_a_local_base_model_is_left_out_and_its_folder_not_told():
    text = page.model_card(make_facts(run=make_run(base_model="/home/somebody/models/mine")))
    assert "base_model" not in front_matter(text)
    assert "`mine`" in text
    assert "somebody" not in text


# --- numbers and axes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.7, "1 h 0 min"),
        (7620, "2 h 7 min"),
    ],
)
def test_durations(seconds, expected):
    assert wording.duration(seconds).replace("\u00a0", " ") == expected


def test_other_numbers():
    assert wording.gigabytes(0.35) == "350\u00a0MB"
    assert wording.points(-0.031) == "−3.1"
    assert wording.times(2, 0) == "–"
    assert [wording.setting(value) for value in (None, True, (), ("a", "b"), 5e-4, 32.0, 1_000_000, "x")] == [
        "not set", "true", "none", "a, b", "0.0005", "32", "1000000", "x",
    ]  # fmt: skip
    assert wording.excerpt("one\ntwo  three", 100) == "one two three"
    assert wording.excerpt("one two three", 9) == "one two…"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 0.7], (0, 0.2, 0.4, 0.6, 0.8)),
        ([91, 93], (91, 91.5, 92, 92.5, 93)),
        ([0, 4050], (0, 2000, 4000, 6000)),
        ([5, 5], (4.5, 5, 5.5)),
    ],
)
def test_axes_have_round_ticks_around_the_values(values, ticks):
    axis = figures.Axis.over("x", values)
    assert axis.low <= min(values) < max(values) <= axis.high or min(values) == max(values)
    assert axis.ticks == pytest.approx(ticks, rel=0.2)


def test_a_point_lies_where_its_numbers_say():
    axis = figures.unit_axis("x")
    frame = figures.Frame(axis, axis)
    assert (frame.across(0), frame.across(1)) == (figures.LEFT, figures.WIDTH - figures.RIGHT)
    assert (frame.down(0), frame.down(1)) == (figures.HEIGHT - figures.BOTTOM, figures.TOP)


def test_smoothing_keeps_short_lines_and_shortens_long_ones():
    assert figures.smooth([1, 2], [3, 4]) == ([1, 2], [3, 4])
    x, y = figures.smooth(list(range(1000)), [7.0] * 1000)
    assert len(x) == len(y) <= figures.MOST_POINTS
    assert set(y) == {7.0}
    assert x[0] == 2.0


def test_whiskers_share_one_scale_and_what_is_far_off_is_marked():
    scale = figures.whiskers(
        [("a", "", Interval(0.92, 0.90, 0.94)), ("b", "", Interval(0.91, 0.90, 0.92)), ("c", "", around(0.5))], held=2
    )
    assert [(row.left, row.span, row.dot, row.below) for row in scale.rows] == [
        (0, 100, 50, False),
        (0, 50, 25, False),
        (0, 0, 0, True),
    ]
    assert scale.ticks == (("90%", 0), ("91%", 25), ("92%", 50), ("93%", 75), ("94%", 100))
    perfect = figures.whiskers([("a", "", Interval(1, 1, 1))])
    assert perfect.rows[0].dot == 100


# --- report() -----------------------------------------------------------------------------


def test_report_writes_three_files_and_returns_the_page(tmp_path):
    facts = make_facts()
    path = report(tmp_path / "run", **nouns_of(facts))
    assert path == tmp_path / "run" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["model_card.md", "report.html", "report.md"]
    assert path.read_text(encoding="utf-8") == page.html(facts)
    assert path.stat().st_size < 200_000


def test_the_same_nouns_give_the_same_bytes(tmp_path):
    first, second = (report(tmp_path / name, **nouns_of(make_facts())).parent for name in ("a", "b"))
    for name in (storage.REPORT_HTML, storage.REPORT_MARKDOWN, storage.MODEL_CARD):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_nouns_of_different_data_are_refused(tmp_path):
    facts = make_facts(
        run=make_run(dataset_fingerprint="0" * 64), evaluation=make_evaluation(dataset_fingerprint="1" * 64)
    )
    with pytest.raises(UsageError) as caught:
        report(tmp_path / "run", **nouns_of(facts))
    assert str(caught.value) == (
        "These files do not belong together:\n"
        f"  - {tmp_path / 'run' / 'run.json'} was made from other data than runs/reviews/dataset.json describes.\n"
        f"  - {tmp_path / 'run' / 'evaluation.json'} was made from other data than runs/reviews/dataset.json describes.\n"
        "Run the stages again in order: plan, train, evaluate, report."
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResourceError, match="a file of that name is in the way"):
        report(tmp_path / "taken", **nouns_of(make_facts()))


class Linear:
    """A small true classifier with the interface of ``textlora.Classifier``."""

    whole_length = 512
    fingerprint = "c" * 64

    def __init__(self, dataset):
        self.label_names = dataset.label_names
        self.vectorizer = TfidfVectorizer()
        self.model = LogisticRegression(C=100).fit(
            self.vectorizer.fit_transform(dataset.train.texts), dataset.train.labels
        )

    def predict_proba(self, texts, *, progress=None):
        return self.model.predict_proba(self.vectorizer.transform(texts))

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


def make_split(prefix, rows, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    words = (["dull", "<b>flat</b>", "slow"], ["plain", "so", "even"], ["warm", "sharp", "$bright$"])
    texts = [
        " ".join(random.choice(words[label if random.random() < 0.7 else random.integers(3)]) for _ in range(3))
        for label in labels
    ]
    return Split(tuple(f"{prefix}{row}" for row in range(rows)), tuple(texts), tuple(labels.tolist()))


def test_a_report_of_a_true_evaluation(tmp_path):
    names = ("bad", "fair", "good")
    dataset = dataclasses.replace(
        make_dataset(names),
        train=make_split("a", 200, 1),
        validation=make_split("b", 60, 2),
        test=make_split("c", 90, 3),
    )
    evaluation = evaluate(tmp_path, dataset, classifier=Linear(dataset), resamples=100)
    path = report(tmp_path, dataset=dataset, plan=make_plan(), run=make_run(names), evaluation=evaluation)
    text = Reader(path.read_text(encoding="utf-8")).text
    assert f"{100 * evaluation.metrics['accuracy'].value:.1f} % of 90 rows classified correctly" in text
    assert "".join(evaluation.mistakes[0].text.split()) in "".join(text.split())  # its words are marked
    assert evaluation.baselines[1].description in text
    assert "ROC-AUC and average precision are the mean over each label against the rest." in text
    assert "Only 90 rows were scored" in text
    assert sum(
        1 for line in path.with_name("report.md").read_text(encoding="utf-8").splitlines() if line.startswith("| c")
    ) == len(evaluation.mistakes)


def test_importing_the_module_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, textlora.reporting; print(sorted({'torch', 'sklearn', 'matplotlib', 'jinja2', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
