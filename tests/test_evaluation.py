"""evaluate() on small synthetic texts with a true classifier: TF-IDF + naive Bayes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from textlora import baselines, storage
from textlora import evaluation as evaluation_module
from textlora.errors import ResourceError, TrainingError, UsageError
from textlora.evaluation import MISTAKE_CHARACTERS, MISTAKE_FORWARDS, evaluate, load_evaluation
from textlora.intervals import wilson
from textlora.multilabel_evaluation import MultiLabelJudged
from textlora.types import Dataset, DatasetInfo, Evaluation, RowCounts, Run, Split, without

GOOD = ["warm", "clever", "honest", "bright", "moving", "funny", "tender", "sharp"]
BAD = ["dull", "clumsy", "noisy", "tired", "hollow", "slow", "messy", "flat"]
NEUTRAL = ["film", "plot", "actor", "scene", "street", "camera", "music", "story", "night", "house", "river", "letter"]
LENGTHS = (8, 40, 100, 200, 400, 700)


def texts_and_labels(rows, *, seed, classes=2):
    """Texts whose label shows in few words among many, so that a classifier is right often, not always."""
    random = np.random.default_rng(seed)
    words = (BAD, GOOD, ["calm", "even", "plain", "quiet"])[:classes]
    labels = random.integers(0, classes, rows)
    texts = []
    for label in labels:
        hints = [random.choice(words[label if random.random() < 0.75 else random.integers(classes)]) for _ in range(3)]
        filler = list(random.choice(NEUTRAL, random.choice(LENGTHS)))
        texts.append(" ".join(random.permutation(hints + filler)))
    return texts, labels.tolist()


def make_split(name, rows, *, seed, classes=2):
    texts, labels = texts_and_labels(rows, seed=seed, classes=classes)
    return Split(tuple(f"{name}-{index}" for index in range(rows)), tuple(texts), tuple(labels))


def make_dataset(folder, *, names=("bad", "good"), train=200, validation=60, test=120):
    classes = len(names)
    splits = {
        name: make_split(name, rows, seed=seed, classes=classes)
        for seed, (name, rows) in enumerate({"train": train, "validation": validation, "test": test}.items())
    }
    info = DatasetInfo(
        source="reviews.csv",
        text_column="review",
        label_column="sentiment",
        task="single_label",
        label_names=names,
        seed=42,
        counts=RowCounts(read=train + validation + test, unsampled=0, kept=train + validation + test),
        split_counts={name: split.class_counts(classes) for name, split in splits.items()},
        findings=(),
        token_lengths=None,
        fingerprint="d" * 64,
    )
    return Dataset(folder, info, **splits)


class Bayes:
    """A small true classifier with the interface of ``textlora.Classifier``."""

    whole_length = 512
    fingerprint = "c" * 64

    def __init__(self, dataset):
        self.label_names = dataset.label_names
        self.vectorizer = CountVectorizer()
        self.model = MultinomialNB().fit(self.vectorizer.fit_transform(dataset.train.texts), dataset.train.labels)

    def predict_proba(self, texts, *, progress=None):
        if progress:
            progress(len(texts), len(texts))
        return self.model.predict_proba(self.vectorizer.transform(texts))

    def count_tokens(self, texts):
        return [len(text.split()) + 2 for text in texts]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, evaluate(folder, dataset, classifier=Bayes(dataset), resamples=200)


def test_the_scores_are_those_of_the_predictions(dataset, evaluated):
    _, evaluation = evaluated
    predicted = Bayes(dataset).predict_proba(dataset.test.texts).argmax(1)
    right = predicted == np.array(dataset.test.labels)
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy.value == right.mean()
    assert accuracy.low < accuracy.value < accuracy.high
    assert evaluation.rows == len(dataset.test) == sum(map(sum, evaluation.confusion))
    assert evaluation.confusion[0][1] == sum((predicted == 1) & (np.array(dataset.test.labels) == 0))
    assert [scores.support for scores in evaluation.classes] == list(dataset.test.class_counts(2))
    assert set(evaluation.metrics) == {
        "accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro",
        "mcc", "roc_auc", "average_precision", "log_loss",
    }  # fmt: skip


def test_the_file_holds_the_same_evaluation(evaluated):
    folder, evaluation = evaluated
    assert load_evaluation(folder) == evaluation
    assert evaluation.run_fingerprint == "c" * 64
    assert evaluation.dataset_fingerprint == "d" * 64


def test_predictions_stand_in_the_order_of_the_split(dataset, evaluated):
    folder, evaluation = evaluated
    table = pq.read_table(folder / storage.PREDICTIONS).to_pydict()
    assert list(table) == ["id", "text", "label", "prediction", "probability", "probability_bad", "probability_good"]
    assert tuple(table["id"]) == dataset.test.ids
    assert tuple(table["text"]) == dataset.test.texts
    assert table["label"] == [dataset.label_names[label] for label in dataset.test.labels]
    probabilities = Bayes(dataset).predict_proba(dataset.test.texts)
    assert table["probability_good"] == probabilities[:, 1].tolist()
    assert table["probability"] == probabilities.max(1).tolist()
    right = sum(label == prediction for label, prediction in zip(table["label"], table["prediction"], strict=True))
    assert right / len(dataset.test) == evaluation.metrics["accuracy"].value


def test_slices_by_length_cover_every_row_once(dataset, evaluated):
    _, evaluation = evaluated
    assert [part.name for part in evaluation.by_length] == ["0–64", "65–128", "129–256", "257–512", "over 512"]
    assert sum(part.rows for part in evaluation.by_length) == len(dataset.test)
    right = sum(part.rows * part.accuracy.value for part in evaluation.by_length)
    assert right / len(dataset.test) == pytest.approx(evaluation.metrics["accuracy"].value)
    tokens = np.array(Bayes(dataset).count_tokens(dataset.test.texts))
    assert evaluation.by_length[0].rows == (tokens <= 64).sum()
    assert evaluation.by_length[4].rows == (tokens > 512).sum()


def test_a_text_on_the_edge_belongs_to_the_shorter_slice(dataset, tmp_path):
    texts = tuple("film " * (tokens - 2) for tokens in (64, 65, 512, 513))
    edges = dataclasses.replace(dataset, test=Split(("a", "b", "c", "d"), texts, (0, 1, 0, 1)))
    evaluation = evaluate(tmp_path, edges, classifier=Bayes(dataset), baseline=False, resamples=10)
    assert [(part.name, part.rows) for part in evaluation.by_length] == [
        ("0–64", 1),
        ("65–128", 1),
        ("257–512", 1),
        ("over 512", 1),
    ]


def test_with_and_without_leaked_rows(dataset, tmp_path):
    leaked = tuple(row % 7 == 0 for row in range(len(dataset.test)))
    marked = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, leaked=leaked))
    scorer = Bayes(dataset)
    evaluation = evaluate(tmp_path, marked, classifier=scorer, baseline=False, resamples=200)
    right = scorer.predict_proba(dataset.test.texts).argmax(1) == np.array(dataset.test.labels)
    kept = [row for row, mark in enumerate(leaked) if not mark]
    part = Split(
        *(tuple(column[row] for row in kept) for column in (dataset.test.ids, dataset.test.texts, dataset.test.labels))
    )
    alone = evaluate(
        tmp_path, dataclasses.replace(dataset, test=part), classifier=scorer, baseline=False, resamples=200
    )
    assert evaluation.leakage.rows == sum(leaked) == 18
    assert evaluation.leakage.accuracy == wilson(int(right[np.array(leaked)].sum()), 18)
    assert evaluation.leakage.others == alone.metrics
    assert evaluation.rows == len(dataset.test), "leaked rows stay in all other scores"
    assert alone.leakage is None
    assert load_evaluation(tmp_path) == alone


def test_where_every_row_is_leaked(dataset, tmp_path):
    marked = dataclasses.replace(dataset.test, leaked=(True,) * len(dataset.test))
    evaluation = evaluate(
        tmp_path, dataclasses.replace(dataset, test=marked), classifier=Bayes(dataset), baseline=False, resamples=10
    )
    assert (evaluation.leakage.rows, evaluation.leakage.others) == (120, {})
    assert load_evaluation(tmp_path) == evaluation
    none = dataclasses.replace(dataset.test, leaked=(False,) * len(dataset.test))
    assert evaluate(
        tmp_path, dataclasses.replace(dataset, test=none), classifier=Bayes(dataset), baseline=False, resamples=10
    ).leakage is None  # fmt: skip


def test_mistakes_are_the_most_confident_wrong_ones(dataset, evaluated):
    _, evaluation = evaluated
    probabilities = Bayes(dataset).predict_proba(dataset.test.texts)
    wrong = probabilities.argmax(1) != np.array(dataset.test.labels)
    expected = sorted(probabilities.max(1)[wrong], reverse=True)[:20]
    assert [mistake.probability for mistake in evaluation.mistakes] == expected
    for mistake in evaluation.mistakes:
        row = dataset.test.ids.index(mistake.id)
        assert mistake.label == dataset.label_names[dataset.test.labels[row]] != mistake.predicted
        assert len(mistake.text) <= MISTAKE_CHARACTERS
        assert dataset.test.texts[row].startswith(mistake.text.removesuffix("…"))
    assert any(mistake.text.endswith("…") for mistake in evaluation.mistakes)


def test_mistakes_say_what_carried_them(dataset, evaluated):
    scorer = Bayes(dataset)
    for mistake in evaluated[1].mistakes:
        assert mistake.spans
        column = dataset.label_names.index(mistake.predicted)
        for span in mistake.spans:
            text = dataset.test.texts[dataset.test.ids.index(mistake.id)]
            left = scorer.predict_proba([without(text, [(span.start, span.end)])])[0, column]
            assert span.probability == pytest.approx(left, abs=1e-12)


def test_explaining_costs_a_bounded_number_of_texts_and_ends_where_the_text_is_cut(dataset, tmp_path, monkeypatch):
    scorer, asked = Bayes(dataset), []
    original = scorer.predict_proba
    monkeypatch.setattr(scorer, "predict_proba", lambda texts, **named: asked.extend(texts) or original(texts, **named))
    good, bad = (" ".join([word] * 3 + ["calm"] * 900 + [word]) for word in ("warm", "dull"))
    long = dataclasses.replace(dataset, test=Split(("a", "b"), (good, bad), (0, 1)))
    evaluation = evaluate(tmp_path, long, classifier=scorer, baseline=False, resamples=10)
    assert len(evaluation.mistakes) == 2
    assert len(asked) <= 2 + 2 * MISTAKE_FORWARDS
    for mistake in evaluation.mistakes:
        assert len(mistake.text) == 2_000
        assert max(span.end for span in mistake.spans) < 2_000


def test_the_baselines_are_trained_on_the_training_split_and_scored_on_the_same_rows(dataset, evaluated):
    _, evaluation = evaluated
    majority, tfidf = evaluation.baselines
    counts = dataset.train.class_counts(2)
    often = dataset.label_names[int(np.argmax(counts))]
    assert (majority.name, tfidf.name) == ("majority class", "TF-IDF + logistic regression")
    assert majority.description == f"always says {often!r}, the most frequent label of the training split"
    assert majority.metrics["accuracy"].value == dataset.test.class_counts(2)[int(np.argmax(counts))] / len(
        dataset.test
    )
    assert majority.metrics["roc_auc"].value == 0.5
    assert tfidf.metrics["accuracy"].value > majority.metrics["accuracy"].value + 0.1
    assert tfidf.metrics.keys() == evaluation.metrics.keys()
    assert tfidf.seconds > 0
    for baseline in evaluation.baselines:
        gain = evaluation.metrics["accuracy"].value - baseline.metrics["accuracy"].value
        assert baseline.advantage.value == pytest.approx(gain)
        assert baseline.advantage.low <= gain <= baseline.advantage.high


def test_the_baseline_takes_the_strength_that_does_best_on_the_validation_split(dataset, evaluated):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    train, validation, test = (
        vectorizer.fit_transform(dataset.train.texts),
        *map(vectorizer.transform, (dataset.validation.texts, dataset.test.texts)),
    )
    models = {
        strength: LogisticRegression(C=strength, max_iter=1000).fit(train, dataset.train.labels)
        for strength in (1, 4, 16)
    }
    best = max(models, key=lambda strength: models[strength].score(validation, dataset.validation.labels))
    tfidf = evaluated[1].baselines[1]
    assert tfidf.description == f"words and word pairs, C = {best} chosen on the validation split"
    assert tfidf.metrics["accuracy"].value == models[best].score(test, dataset.test.labels)


def test_blocks_of_rows_give_the_same(dataset, evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_module, "BLOCK", 50)
    monkeypatch.setattr(baselines, "BLOCK", 50)
    calls = []
    found = evaluate(
        tmp_path, dataset, classifier=Bayes(dataset), resamples=200, progress=lambda *step: calls.append(step)
    )
    assert calls == [(50, 120), (100, 120), (120, 120)]
    timeless = [
        dataclasses.replace(
            one, seconds=0, baselines=tuple(dataclasses.replace(base, seconds=0) for base in one.baselines)
        )
        for one in (found, evaluated[1])
    ]
    assert timeless[0] == timeless[1]
    written, whole = (pq.read_table(folder / storage.PREDICTIONS) for folder in (tmp_path, evaluated[0]))
    assert written.equals(whole)
    assert pq.ParquetFile(tmp_path / storage.PREDICTIONS).metadata.num_row_groups == 3


def test_the_baseline_is_trained_on_a_bounded_part_and_says_so(dataset, tmp_path, monkeypatch):
    characters = sum(map(len, dataset.train.texts))
    monkeypatch.setattr(baselines, "CHARACTERS", characters // 4)
    part = baselines.bounded(dataset.train, 42)
    assert part == baselines.bounded(dataset.train, 42)
    assert part.class_counts(2) == tuple(-(-count // 4) for count in dataset.train.class_counts(2))
    rows = {row.id: row for row in dataset.train}
    assert all(rows[row.id] == row for row in part)
    tfidf = evaluate(tmp_path, dataset, classifier=Bayes(dataset), resamples=20).baselines[1]
    assert tfidf.description.startswith(f"words and word pairs of {len(part)} of 200 training texts, C = ")


def test_three_classes_of_which_the_training_split_lacks_one(tmp_path):
    data = make_dataset(tmp_path, names=("bad", "good", "so-so"))
    kept = [row for row in data.train if row.label != 2]
    train = Split(*(tuple(column) for column in zip(*((row.id, row.text, row.label) for row in kept), strict=True)))
    lacking = dataclasses.replace(data, train=train)
    evaluation = evaluate(tmp_path, lacking, classifier=Bayes(data), resamples=50)
    assert [curve.label for curve in evaluation.roc] == ["bad", "good", "so-so"]
    assert evaluation.baselines[1].metrics["log_loss"].value > evaluation.metrics["log_loss"].value


def test_tiny_data_and_texts_without_words(dataset, tmp_path):
    rows = Split(("a", "b"), ("one bright day", "two dull nights"), (1, 0))
    tiny = dataclasses.replace(dataset, train=rows, validation=Split((), (), ()), test=rows)
    evaluation = evaluate(tmp_path, tiny, classifier=Bayes(tiny), resamples=50)
    assert evaluation.baselines[1].description == "words and word pairs, C = 1, no validation rows to choose it by"
    silent = dataclasses.replace(tiny, train=Split(("a", "b"), ("!", "?"), (1, 0)))
    evaluation = evaluate(tmp_path, silent, classifier=Bayes(tiny), resamples=50)
    assert [baseline.name for baseline in evaluation.baselines] == ["majority class"]


def test_another_split_without_baselines(dataset, tmp_path):
    calls = []
    evaluation = evaluate(
        tmp_path,
        dataset,
        split="validation",
        classifier=Bayes(dataset),
        baseline=False,
        resamples=50,
        progress=lambda *done: calls.append(done),
    )
    assert (evaluation.split, evaluation.rows, evaluation.baselines) == ("validation", 60, ())
    assert calls == [(60, 60)]


def test_the_same_call_gives_the_same_files(dataset, evaluated, tmp_path):
    first, _ = evaluated
    evaluate(tmp_path, dataset, classifier=Bayes(dataset), resamples=200)
    assert (tmp_path / storage.PREDICTIONS).read_bytes() == (first / storage.PREDICTIONS).read_bytes()
    timeless = [
        dataclasses.replace(
            one, seconds=0, baselines=tuple(dataclasses.replace(base, seconds=0) for base in one.baselines)
        )
        for one in (load_evaluation(first), load_evaluation(tmp_path))
    ]
    assert timeless[0] == timeless[1]


# --- refusals -----------------------------------------------------------------------------


def test_an_unknown_split(dataset, tmp_path):
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path, dataset, split="tests", classifier=Bayes(dataset))
    assert str(caught.value) == "There is no split 'tests'. Did you mean 'test'?\nSplits: train, validation, test."


def test_a_split_without_rows(dataset, tmp_path):
    empty = dataclasses.replace(dataset, test=Split((), (), ()), folder=Path("runs/reviews"))
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path, empty, classifier=Bayes(dataset))
    assert (
        str(caught.value)
        == "The test split of runs/reviews has no rows.\nChoose another one with --split, or prepare the data again."
    )


def test_a_classifier_with_other_labels(dataset, tmp_path):
    classifier = Bayes(dataset)
    classifier.label_names = ("good", "bad")
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path, dataset, classifier=classifier)
    assert str(caught.value) == (
        f"The classifier of {tmp_path} has the labels 'good', 'bad'; the dataset in {dataset.folder} has 'bad', 'good'.\n"
        "Evaluate with the dataset the classifier was trained on: same labels, same order."
    )
    assert list(tmp_path.iterdir()) == []


def make_run(folder, *, dataset_fingerprint):
    return Run(
        folder=folder, base_model="embedded", architecture="DistilBERT", recipe="default", seed=42, label_names=("bad", "good"),
        history=(), epochs=1, steps=1, best_step=1, best_metric=0.5, final_training_loss=0.5, total_parameters=10,
        trainable_parameters=1, mean_training_loss=0.6, seconds=1, cpu_seconds=1, peak_memory_gb=1, tokens_per_second=1, reload_difference=0,
        stopped_early=False, versions={}, dataset_fingerprint=dataset_fingerprint, plan_fingerprint="p" * 64,
    )  # fmt: skip


def test_a_run_trained_on_other_data(dataset, tmp_path):
    storage.write_noun(tmp_path / storage.RUN, make_run(tmp_path, dataset_fingerprint="e" * 64))
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path, dataset, classifier=Bayes(dataset))
    assert str(caught.value) == (
        f"{tmp_path / 'run.json'} was trained on other data than {dataset.folder / 'dataset.json'} describes.\n"
        "Evaluate with the dataset the run was trained on, or train again."
    )


def test_a_run_trained_on_this_data_is_taken(dataset, tmp_path):
    storage.write_noun(tmp_path / storage.RUN, make_run(tmp_path, dataset_fingerprint=dataset.fingerprint))
    assert evaluate(tmp_path, dataset, classifier=Bayes(dataset), baseline=False, resamples=10).rows == 120


def test_probabilities_that_are_no_numbers(dataset, tmp_path):
    classifier = Bayes(dataset)
    broken = sum("dull" in text.split() for text in dataset.test.texts)
    classifier.model.feature_log_prob_[0, classifier.vectorizer.vocabulary_["dull"]] = np.nan
    with pytest.raises(TrainingError) as caught:
        evaluate(tmp_path, dataset, classifier=classifier)
    assert str(caught.value) == (
        f"The classifier gives no numbers for {broken} of 120 rows.\n"
        "Its weights hold NaN or infinite values: train again, with a smaller training.learning_rate or compute.precision=fp32."
    )


def test_a_folder_that_cannot_be_made(dataset, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResourceError, match="a file of that name is in the way"):
        evaluate(tmp_path / "taken", dataset, classifier=Bayes(dataset), baseline=False, resamples=10)


def test_no_evaluation_yet(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_evaluation(tmp_path)
    assert (
        str(caught.value)
        == f"{tmp_path / 'evaluation.json'} does not exist.\n`textlora evaluate` writes it: run that first."
    )


def test_importing_the_module_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, textlora.evaluation, textlora.metrics; print(sorted({'torch', 'sklearn', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_evaluation_is_a_frozen_noun(evaluated):
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluated[1].rows = 1
    assert isinstance(evaluated[1], Evaluation)


def test_leaked_rows_with_several_labels():
    rows = Split(("a", "b", "c", "d"), ("", "", "", ""), ((0,), (0, 1), (), (1,)), leaked=(False, True, False, False))
    probabilities = np.array([[0.9, 0.2], [0.8, 0.7], [0.1, 0.6], [0.3, 0.8]])
    judged = MultiLabelJudged(rows, ("bad", "good"), probabilities, probabilities > 0.5)
    part = evaluation_module._part(judged, ~np.asarray(rows.leaked))
    assert part.right.tolist() == [True, False, True]
    figures = part.scores(10, 0).metrics
    assert figures["f1_macro"].value == pytest.approx((1 + 2 / 3) / 2)
