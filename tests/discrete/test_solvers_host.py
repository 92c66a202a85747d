"""Instances on threads: each is solved once, on as many as pay, and an error reaches the caller."""

import threading
import time

import pytest
import torch

from weft.discrete._solvers.host import for_each


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def solve_for(seconds, count):
    """Return the instances in the order in which they were solved, and the threads that did."""
    solved, threads = [], set()

    def solve(instance):
        time.sleep(seconds)
        solved.append(instance)
        threads.add(threading.get_ident())

    for_each(solve, count)
    return solved, threads


def test_instances_that_take_long_are_spread_over_threads_and_solved_once(three_threads):
    solved, threads = solve_for(0.01, 7)
    assert sorted(solved) == list(range(7))
    assert len(threads) == 3


def test_instances_that_take_no_time_stay_on_one_thread_in_their_order(three_threads):
    solved, threads = [], set()

    def solve(instance):
        solved.append(instance)
        threads.add(threading.get_ident())

    for_each(solve, 7)
    assert solved == list(range(7))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("count", [1, 2])
def test_there_are_no_more_threads_than_instances_left(three_threads, count):
    solved, threads = solve_for(0.001, count)
    assert solved == list(range(count))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("broken", [0, 1, 2])  # the first, the caller's own, another thread's
def test_an_error_on_any_thread_reaches_the_caller(three_threads, broken):
    def solve(instance):
        time.sleep(0.001)
        if instance == broken:
            raise ValueError(f"instance {instance} has none")

    with pytest.raises(ValueError, match=f"instance {broken} has none"):
        for_each(solve, 5)
