"""Intervals and tests are those of scipy."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from runner.results.statistics import measure, measure_pairs, wilcoxon_p_value


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_is_that_of_students_t(count):
    values = np.random.default_rng(count).normal(0.8, 0.01, count)
    spread = measure(values.tolist())
    sem = stats.sem(values)
    assert spread.mean == pytest.approx(values.mean()) and spread.sem == pytest.approx(sem)
    assert spread.interval == pytest.approx(stats.t.interval(0.95, count - 1, values.mean(), sem))
    assert spread.half_width == pytest.approx(spread.interval[1] - spread.mean)


def test_equal_values_one_value_and_none():
    assert measure([0.98] * 5).std == 0 and measure([0.98] * 5).mean == 0.98
    assert measure([]) is None and measure_pairs([]) is None
    alone = measure_pairs([0.25])
    assert (alone.difference.mean, alone.difference.interval, alone.p_value) == (0.25, None, None)


def test_a_value_that_is_no_number_shows_everywhere():
    spread = measure([1.0, math.nan])
    assert all(map(math.isnan, (spread.mean, spread.std, spread.half_width)))
    paired = measure_pairs([1.0, math.inf, 2.0])
    assert math.isnan(paired.difference.mean) and paired.p_value is None and paired.wilcoxon_p_value is None


@pytest.mark.parametrize("count", [2, 4, 12, 60])
@pytest.mark.parametrize("shift", [0.0, 0.004, -0.02])
def test_pairs_are_compared_as_scipy_compares_them(count, shift):
    generator = np.random.default_rng(count)
    first, noise = generator.normal(0.8, 0.05, count), generator.normal(shift, 0.01, count)
    paired = measure_pairs(noise.tolist())
    expected = stats.ttest_rel(first + noise, first)
    assert paired.p_value == pytest.approx(expected.pvalue)
    assert paired.difference.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    if count < 6:
        assert paired.wilcoxon_p_value is None
    else:
        assert paired.wilcoxon_p_value == pytest.approx(stats.wilcoxon(noise, method="exact").pvalue)


def test_equal_differences_have_an_interval_and_no_test():
    paired = measure_pairs([0.5, 0.5, 0.5])
    assert paired.difference.interval == [0.5, 0.5] and paired.p_value is None


def test_signed_ranks_with_ties_are_counted_out():
    """Against every sign pattern; zeros are left out first."""
    differences = [0.1, -0.1, 0.2, 0.2, 0.3, 0.0, 0.5]
    ranks = stats.rankdata(np.abs([each for each in differences if each]))
    patterns = (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks))) & 1
    sums, observed = patterns @ ranks, ranks[[0, 2, 3, 4, 5]].sum()
    expected = min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))
    assert wilcoxon_p_value(differences) == pytest.approx(expected)
    assert wilcoxon_p_value([0.1] * 6) == pytest.approx(2 / 2**6), "the least that six pairs can reach"
    assert wilcoxon_p_value([0.1] * 5) is None


def test_differences_of_shares_are_ties_whatever_their_last_bits_say():
    """Accuracies are k of 2,000: 7 seeds better by 20 samples, 2 worse by as many. By hand: 2 * (36 + 9 + 1) / 512."""
    draw, sizes = random.Random(0), set()
    for _ in range(100):
        counts = [draw.randrange(900, 1900) for _ in range(9)]
        differences = [
            (count + sign * 20) / 2000 - count / 2000 for count, sign in zip(counts, [1] * 7 + [-1] * 2, strict=True)
        ]
        sizes |= set(map(abs, differences))
        assert wilcoxon_p_value([*differences, 1e-17]) == pytest.approx(2 * (36 + 9 + 1) / 512)
    assert len(sizes) > 1, "they are not equal as floats"
    paired = measure_pairs(sorted(sizes))
    assert paired.p_value is None and paired.difference.std == 0, "all pairs differ by the same"
