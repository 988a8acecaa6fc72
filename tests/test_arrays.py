"""However a submission is split into arrays: every trial once, within the cluster's limits and the throttle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.arrays import Array, Bound, plan_arrays, tell_arrays, tell_rest, tightest

KINDS = st.lists(st.integers(0, 3), min_size=1, max_size=120)
FEW = st.integers(1, 20)


def lanes_of(arrays: list[Array]) -> list[list[Array]]:
    """Arrays that wait for one another, in order."""
    lanes: dict[int, list[Array]] = {}
    first: dict[int, int] = {}
    for place, array in enumerate(arrays):
        first[place] = place if array.after is None else first[array.after]
        lanes.setdefault(first[place], []).append(array)
    return list(lanes.values())


def most_at_once(arrays: list[Array]) -> int:
    """What Slurm could run at a time at worst: of each lane the widest of its arrays."""
    return sum(max(array.at_once for array in lane) for lane in lanes_of(arrays))


@pytest.mark.parametrize(
    ("count", "parallel", "array_size", "arrays"),
    [
        (3, 256, 1001, [Array((0, 1, 2), 3)]),
        (4, 2, 4, [Array((0, 1, 2, 3), 2)]),
        (12, 3, 5, [Array((0, 3, 6, 9), 1), Array((1, 4, 7, 10), 1), Array((2, 5, 8, 11), 1)]),
        (6, 4, 3, [Array((0, 2, 4), 2), Array((1, 3, 5), 2)]),
        (5, 1, 2, [Array((0, 1), 1), Array((2, 3), 1, 0), Array((4,), 1, 1)]),
        (8, 2, 3, [Array((0, 2), 1), Array((1, 3), 1), Array((4, 6), 1, 0), Array((5, 7), 1, 1)]),
    ],
)
def test_arrays_of_equal_trials(count, parallel, array_size, arrays):
    assert plan_arrays(["one kind"] * count, parallel, array_size) == arrays


def test_kinds_share_the_throttle_by_their_number_of_trials():
    assert plan_arrays("aaaabbaa", 4, 100) == [Array((0, 1, 2, 3, 6, 7), 3), Array((4, 5), 1)]


def test_more_kinds_than_may_run_at_a_time_follow_one_another():
    assert plan_arrays("abcab", 2, 100) == [Array((0, 3), 1), Array((1, 4), 1), Array((2,), 1, 0)]


@given(KINDS, FEW, FEW)
def test_every_trial_once_within_all_limits(kinds, parallel, array_size):
    arrays = plan_arrays(kinds, parallel, array_size)
    assert sorted(member for array in arrays for member in array.members) == list(range(len(kinds)))
    for place, array in enumerate(arrays):
        assert 0 < array.at_once <= len(array.members) <= array_size
        assert list(array.members) == sorted(array.members)
        assert len({kinds[member] for member in array.members}) == 1
        assert array.after is None or array.after < place
    assert most_at_once(arrays) <= parallel


@given(KINDS, FEW, FEW)
def test_nothing_of_the_throttle_is_given_away(kinds, parallel, array_size):
    arrays = plan_arrays(kinds, parallel, array_size)
    assert sum(lane[0].at_once for lane in lanes_of(arrays)) == min(parallel, len(kinds))


@given(st.integers(1, 400), FEW, FEW)
def test_arrays_of_one_kind_end_together_if_trials_take_equally_long(count, parallel, array_size):
    arrays = plan_arrays([0] * count, parallel, array_size)
    assert all(array.at_once == 1 for lane in lanes_of(arrays) if len(lane) > 1 for array in lane)
    rounds = [sum(-(-len(array.members) // array.at_once) for array in lane) for lane in lanes_of(arrays)]
    assert max(rounds) <= -(-count // min(parallel, count)) + 1


def test_what_is_chosen_is_one_line():
    assert tell_arrays(plan_arrays([0] * 9, 3, 10), 10) is None
    assert tell_arrays(plan_arrays([0] * 12, 3, 5), 5) == (
        "12 trials go as 3 arrays of 4 (the cluster takes 5 in one); 3 at a time in all"
    )
    assert tell_arrays(plan_arrays([0] * 11, 2, 3), 3) == (
        "11 trials go as 4 arrays of 2-3 (the cluster takes 3 in one), 2 of them after another; 2 at a time in all"
    )


SMALL = Bound(10, 6, "MaxSubmitJobsPerUser of QOS small")


@pytest.mark.parametrize(
    ("count", "bound", "line"),
    [
        (4, SMALL, None),
        (
            9,
            SMALL,
            "4 of 9 trials sent: MaxSubmitJobsPerUser of QOS small is 10, and 6 jobs are there; "
            "`runner submit` again, or with --wait, sends the other 5 once there is room",
        ),
        (
            1,
            Bound(3, 5, "GrpSubmitJobs of account lab"),
            "none of 1 trial sent: GrpSubmitJobs of account lab is 3, and 5 jobs are there; "
            "`runner submit` again, or with --wait, sends the other 1 once there is room",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_numbers(count, bound, line):
    assert tell_rest(count, bound) == line


def test_the_least_room_counts():
    assert tightest([SMALL, Bound(100, 99, "x"), Bound(5, 0, "y")]) == Bound(100, 99, "x")
    assert tightest([]) is None
