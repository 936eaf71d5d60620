"""Pieces of work side by side."""

import threading
from functools import partial

import pytest
import torch

from textlora.threads import side_by_side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def facts(number):
    return number, torch.get_num_threads(), threading.current_thread() is threading.main_thread()


@pytest.mark.usefixtures("two_threads")
class TestSideBySide:
    def test_results_come_in_order_and_every_piece_has_one_thread(self):
        found = list(side_by_side([partial(facts, number) for number in range(20)], on="cpu"))
        assert found == [(number, 1, False) for number in range(20)]

    def test_two_pieces_run_at_the_same_time(self):
        meeting = threading.Barrier(2, timeout=30)
        assert len(list(side_by_side([meeting.wait, meeting.wait], on="cpu"))) == 2

    def test_a_single_piece_has_all_threads(self):
        assert list(side_by_side([partial(facts, 0)], on="cpu")) == [(0, 2, True)]

    def test_on_other_devices_one_after_the_other(self):
        found = list(side_by_side([partial(facts, 0), partial(facts, 1)], on="cuda"))
        assert found == [(0, 2, True), (1, 2, True)]

    def test_afterwards_new_threads_have_all_cores_again(self):
        list(side_by_side([partial(facts, number) for number in range(3)], on="cpu"))
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert (torch.get_num_threads(), seen) == (2, [2])

    def test_an_error_comes_through_and_the_rest_is_not_begun(self):
        begun = []

        def piece(number):
            begun.append(number)
            if number == 0:
                raise ValueError("broken")
            threading.Event().wait(0.05)

        with pytest.raises(ValueError, match="broken"):
            list(side_by_side([partial(piece, number) for number in range(100)], on="cpu"))
        assert len(begun) < 100
        assert torch.get_num_threads() == 2

    def test_no_work(self):
        assert list(side_by_side([], on="cpu")) == []
