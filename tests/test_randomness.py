import numpy as np
import pytest
from scipy import stats

from runner.randomness import draw_uniforms, philox


def words(*values):
    return tuple(np.array([value], np.uint64) for value in values)


# the known-answer vectors of Random123 for philox4x32-10: counter, key, output
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_published_words(counter, key, output):
    assert philox(words(*counter), key) == words(*output)


def test_numbers_are_uniform_and_independent():
    u = draw_uniforms(seed=3, epoch=1, ids_B=np.arange(20_000), view=0, count=12)
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(u, rowvar=False) - np.eye(12)
    assert np.abs(correlation).max() < 0.03


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 1}, {"view": 1}, {"ids_B": np.arange(100, 110)}])
def test_every_part_of_the_key_matters(change):
    base = {"seed": 7, "epoch": 0, "ids_B": np.arange(10), "view": 0, "count": 8}
    first, second = draw_uniforms(**base), draw_uniforms(**(base | change))
    assert np.intersect1d(first, second).size == 0


def test_large_seeds_and_ids_are_not_cut_off():
    ids = np.array([5, 5 + 2**32, 5 + 2**40])
    u = draw_uniforms(2**63 + 1, 0, ids, 0, 4)
    assert np.unique(u).size == u.size
    assert not np.array_equal(u, draw_uniforms(1, 0, ids, 0, 4))


def test_a_sample_keeps_its_numbers_in_any_company():
    together = draw_uniforms(1, 2, np.arange(50), 3, 16)
    alone = np.concatenate([draw_uniforms(1, 2, np.array([i]), 3, 16) for i in range(50)])
    assert np.array_equal(together, alone)
    assert np.array_equal(together[:, :5], draw_uniforms(1, 2, np.arange(50), 3, 5))
    assert together.min() > 0 and together.max() < 1
