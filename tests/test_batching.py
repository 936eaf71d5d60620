"""Micro-batches: every sample once, within the budget, padding counted."""

from __future__ import annotations

import random

import numpy as np
import pytest

from textlora.batching import GROUP_PAIRS, LENGTH_STEP, group_sizes, micro_batches, padded_length


def cases(count=300):
    draw = random.Random(11)
    for _ in range(count):
        limit = draw.choice([16, 64, 100, 512])
        lengths = [draw.randint(1, limit) for _ in range(draw.randint(0, 70))]
        yield lengths, draw.choice([1, 32, 64, 100, 512, 1000, 4096, 10**9]), limit


@pytest.mark.parametrize("padded", [32, 96, 288, 512, 1024])
def test_groups_hold_every_text_once_and_stay_in_the_cache(padded):
    for texts in range(300):
        sizes = list(group_sizes(texts, padded))
        assert sum(sizes) == texts
        assert sizes == sorted(sizes, reverse=True)
        assert all(size == 1 or size * padded**2 <= GROUP_PAIRS for size in sizes)


class TestMicroBatches:
    def test_every_sample_once(self):
        for lengths, budget, limit in cases():
            batches = micro_batches(lengths, budget, limit=limit)
            assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
            assert all(batches)

    def test_the_budget_is_kept_with_padding(self):
        for lengths, budget, limit in cases():
            for batch in micro_batches(lengths, budget, limit=limit):
                tokens = len(batch) * padded_length(max(lengths[index] for index in batch), limit)
                assert tokens <= budget or len(batch) == 1

    def test_no_batch_could_take_the_next_sample(self):
        for lengths, budget, limit in cases():
            batches = micro_batches(lengths, budget, limit=limit)
            for batch in batches[:-1]:
                tokens = (len(batch) + 1) * padded_length(max(lengths[index] for index in batch), limit)
                assert tokens > budget

    def test_longest_first_and_ties_in_order(self):
        for lengths, budget, limit in cases():
            order = [index for batch in micro_batches(lengths, budget, limit=limit) for index in batch]
            assert order == sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))

    def test_a_sample_beyond_the_budget_stands_alone(self):
        assert micro_batches([5, 500, 7], 2 * LENGTH_STEP, limit=512) == [[1], [2, 0]]

    def test_budget_zero_makes_one_batch(self):
        assert micro_batches([5, 500, 7], 0, limit=512) == [[1, 2, 0]]
        assert micro_batches([], 0, limit=512) == []

    def test_nothing_to_cut(self):
        assert micro_batches([], 64, limit=512) == []

    def test_arrays_are_as_good_as_lists(self):
        lengths = [40, 3, 64, 64, 12]
        assert micro_batches(np.array(lengths), 128, limit=64) == micro_batches(lengths, 128, limit=64)


class TestPaddedLength:
    @pytest.mark.parametrize(
        ("longest", "limit", "width"),
        [
            (1, 512, LENGTH_STEP),
            (LENGTH_STEP, 512, LENGTH_STEP),
            (LENGTH_STEP + 1, 512, 2 * LENGTH_STEP),
            (500, 512, 512),
            (510, 510, 510),
            (65, 66, 66),
            (600, 512, 600),
        ],
    )
    def test_rounded_up_within_the_limit(self, longest, limit, width):
        assert padded_length(longest, limit) == width

    def test_few_widths_occur(self):
        assert len({padded_length(longest, 512) for longest in range(1, 513)}) == 512 / LENGTH_STEP
