"""similarity: near-duplicates are found by their character 5-grams, and by nothing that does not count."""

from __future__ import annotations

import random

import numpy as np
import pytest

from textlora.similarity import (
    Banding,
    Forest,
    Sets,
    banding,
    candidate_pairs,
    content_hashes,
    jaccard,
    shingle,
    sketch,
)


def grams(text):
    """Independent of the module: the set of 5-grams of a text that is already plain."""
    spaced = " " + " ".join(text.split())
    return {spaced[n : n + 5] for n in range(len(spaced) - 4)} or {spaced}


def true_jaccard(one, other):
    first, second = grams(one), grams(other)
    return len(first & second) / len(first | second)


def similarity_of(*texts):
    return float(jaccard(Sets.of(shingle(texts)), np.array([[0, 1]]))[0])


def words(draw, count):
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_jaccard_is_that_of_python_sets(seed):
    draw = random.Random(seed)
    vocabulary = words(draw, 30)
    texts = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 40))) for _ in range(30)]
    pairs = np.array([[draw.randrange(30), draw.randrange(30)] for _ in range(100)])
    found = jaccard(Sets.of(shingle(texts)), pairs)
    assert found.tolist() == [true_jaccard(texts[one], texts[other]) for one, other in pairs]


def test_jaccard_of_many_texts_in_pieces(monkeypatch):
    from textlora.similarity import comparing

    draw = random.Random(1)
    vocabulary = words(draw, 30)
    texts = [" ".join(draw.choices(vocabulary, k=20)) for _ in range(30)]
    pairs = np.array([[one, other] for one in range(30) for other in range(30)])
    whole = jaccard(Sets.of(shingle(texts)), pairs)
    monkeypatch.setattr(comparing, "_KEYS", 150)
    parts = Sets.joined([Sets.of(shingle(texts[:11])), Sets.of(shingle(texts[11:]))])
    assert jaccard(parts, pairs).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A fine film.", "a FINE film"),
        ("a fine   film", "a fine, film!"),
        ("“a fine film”", "a fine film …"),
        ("cafe\u0301 noir", "caf\u00e9 noir"),
        ("ﬁne ﬁlm", "fine film"),  # ligatures
        ("Straße", "STRASSE"),
        ("ok", "OK!"),
        ("很好的电影", "很好的电影。"),
        ("😂 so", "😂 So!"),
        ("a\u00a0b", "a b"),
    ],
)
def test_what_does_not_count(one, other):
    assert similarity_of(one, other) == 1
    assert content_hashes(shingle([one, other]))[0] == content_hashes(shingle([one, other]))[1]


@pytest.mark.parametrize(
    ("one", "other"), [("good", "bad"), ("!!!", "???"), ("a", "b"), ("no", "now"), ("😂", "😡"), ("", "x"), ("1", "2")]
)
def test_short_texts_are_alike_only_when_they_are_equal(one, other):
    assert similarity_of(one, other) == 0


def test_the_same_text_is_the_same_in_any_company():
    alone, among = shingle(["a fine film"]), shingle(["ü!", "a fine film", "很好的电影 A"])
    assert among.hashes[among.starts[1] : among.starts[2]].tolist() == alone.hashes.tolist()
    assert len(shingle([])) == 0


def test_banding_is_the_narrowest_that_finds_the_threshold():
    assert banding(0.8) == Banding(36, 7)
    assert banding(0.5) == Banding(85, 3)
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0):
        assert banding(threshold).chance(threshold) >= 0.999


@pytest.mark.parametrize("length", [6, 15, 60, 400])
def test_pairs_above_the_threshold_share_a_band(length):
    """Texts of 6 to 400 words with a word replaced here and there, as far as they stay alike."""
    draw, cut = random.Random(length), banding(0.8)
    texts, pairs = [], []
    while len(pairs) < 150:
        text = words(draw, length)
        other = [draw.choice(words(draw, 1)) if draw.random() < 0.06 else word for word in text]
        if true_jaccard(" ".join(text), " ".join(other)) >= 0.8:
            pairs.append((len(texts), len(texts) + 1))
            texts += [" ".join(text), " ".join(other)]
    bands = sketch(shingle(texts), cut)
    assert bands.shape == (36, 300)
    found = {tuple(pair) for band in bands for piece in candidate_pairs(band) for pair in piece.tolist()}
    assert set(pairs) <= found
    assert len(found - set(pairs)) < 5


def test_sketches_agree_as_often_as_sets_do():
    """Broder's theorem: a share of the sketch's numbers agrees that is the Jaccard similarity."""
    draw = random.Random(4)
    singles = Banding(256, 1)
    errors = []
    for length in (4, 12, 50, 300):
        for _ in range(40):
            text = words(draw, length)
            other = [draw.choice(words(draw, 1)) if draw.random() < 0.2 else word for word in text]
            bands = sketch(shingle([" ".join(text), " ".join(other)]), singles)
            errors.append(float((bands[:, 0] == bands[:, 1]).mean()) - true_jaccard(" ".join(text), " ".join(other)))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.06


def test_candidate_pairs_are_all_pairs_of_small_buckets():
    hashes = np.array([5, 7, 5, 9, 7, 5, 1], np.uint32)
    found = np.concatenate(list(candidate_pairs(hashes)))
    assert sorted(map(tuple, found.tolist())) == [(0, 2), (0, 5), (1, 4), (2, 5)]
    assert list(candidate_pairs(np.zeros(0, np.uint32))) == []
    assert [len(pairs) for pairs in candidate_pairs(np.arange(9, dtype=np.uint32))] == []


def test_candidate_pairs_of_a_large_bucket_are_bounded_and_hang_together():
    found = np.concatenate(list(candidate_pairs(np.full(20_000, 3, np.uint32))))
    assert len(found) <= 24 * 20_000
    assert (found[:, 0] < found[:, 1]).all()
    assert len(np.unique(found @ [1 << 32, 1])) == len(found)
    forest = Forest(20_000)
    forest.unite(found)
    assert not forest.roots().any()


@pytest.mark.parametrize("seed", range(10))
def test_forest_finds_the_connected_components(seed):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    draw = np.random.default_rng(seed)
    pairs = draw.integers(0, 200, (draw.integers(1, 250), 2))
    forest = Forest(200)
    for part in np.array_split(pairs, 3):
        forest.unite(part)
    count, labels = connected_components(coo_matrix((np.ones(len(pairs)), pairs.T), shape=(200, 200)))
    roots = forest.roots()
    assert len(np.unique(roots)) == count
    for label in range(count):
        members = np.flatnonzero(labels == label)
        assert set(roots[members].tolist()) == {int(members.min())}


def test_too_many_texts_at_once():
    with pytest.raises(ValueError, match="at most 4096 texts can be sketched at once"):
        sketch(shingle(["a"] * 4_097), banding(0.8))
