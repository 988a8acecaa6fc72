import numpy as np
import pytest
from scipy import stats

from runner.view_draws import draw_view
from runner.views_config import ViewsConfig

IDS = np.arange(20_000)
SHAPE = (32, 32)


def draw(view=0, ids=IDS, shape=SHAPE, **options):
    return draw_view(ViewsConfig(**options), ids, shape, seed=11, epoch=0, view=view)


@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (40, 90), (200, 31)])
@pytest.mark.parametrize("scale", [(0.1, 1.0), (0.05, 0.3), (0.9, 1.0)])
def test_boxes_lie_in_the_image_and_keep_area_and_aspect(shape, scale):
    top, left, height, width = draw(shape=shape, global_scale=scale).box.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (height >= 1).all() and (width >= 1).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()
    # rounding both sides to whole pixels moves area and aspect ratio by at most this much
    slack = (1 + 0.5 / np.minimum(height, width)) ** 2
    assert (width / height < 4 / 3 * slack).all() and (height / width < 4 / 3 * slack).all()
    assert (height * width < scale[1] * shape[0] * shape[1] * slack).all()


def test_area_and_aspect_are_uniform_where_every_attempt_fits():
    top, left, height, width = draw(shape=(1000, 1000), global_scale=(0.1, 0.7)).box.T
    area, ratio = height * width / 1000**2, width / height
    assert stats.kstest(area, stats.uniform(0.1, 0.6).cdf).pvalue > 1e-3
    spread = stats.uniform(np.log(3 / 4), np.log(16 / 9))
    assert stats.kstest(np.log(ratio), spread.cdf).pvalue > 1e-3
    jiggle = np.random.default_rng(0).random(len(top))
    assert stats.kstest((top + jiggle) / (1001 - height), "uniform").pvalue > 1e-3
    assert stats.kstest((left + jiggle) / (1001 - width), "uniform").pvalue > 1e-3


def test_a_box_that_never_fits_is_the_largest_one_in_the_middle():
    # a 10 x 100 image cannot hold 100 % of its area at an aspect ratio of at most 4/3
    boxes = draw(shape=(10, 100), global_scale=(1.0, 1.0)).box
    assert (boxes == [0, 43, 10, 13]).all()


def test_orders_of_the_colour_changes_are_equally_likely():
    _, counts = np.unique(draw().order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_factors_are_uniform_in_the_configured_ranges():
    draws = draw(jitter={"brightness": 0.8, "contrast": 0.5, "saturation": 0.0, "hue": 0.2})
    limits = [(0.2, 1.8), (0.5, 1.5), (1.0, 1.0), (-0.2, 0.2)]
    for factor, (low, high) in zip(draws.factors.T, limits, strict=True):
        if low == high:
            assert (factor == low).all()
        else:
            assert stats.kstest(factor, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert stats.kstest(draws.sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("flip", {"flip_probability": 0.5}),
        ("jitter", {"jitter": {"probability": 0.8}}),
        ("greyscale", {"greyscale_probability": 0.2}),
        ("blur", {"blur": {"probability": 0.3}}),
        ("solarize", {"solarize": {"probability": 0.1}}),
    ],
)
def test_choices_come_as_often_as_configured_and_on_their_own(name, options):
    option = next(iter(options.values()))
    share = option["probability"] if isinstance(option, dict) else option
    chosen = getattr(draw(**options), name)
    assert stats.binomtest(int(chosen.sum()), len(IDS), share).pvalue > 1e-3
    # the other draws do not notice
    assert np.array_equal(draw(**options).box, draw().box)
    assert np.array_equal(draw(**options).order, draw().order)


def test_local_views_are_smaller_and_never_solarized():
    options = {"local_views": 1, "local_scale": (0.05, 0.2), "solarize": {"probability": 1.0}}
    large, small = draw(view=1, **options), draw(view=2, **options)
    assert large.solarize.all() and not small.solarize.any()
    assert small.box[:, 2:].prod(1).max() <= 0.2 * 32 * 32 * 1.2


def test_a_sample_keeps_its_draws_in_any_company():
    ids = np.array([4, 19, 3, 77])
    some, all_ = draw(ids=ids), draw(ids=np.arange(100))
    for name, values in vars(some).items():
        assert np.array_equal(values, getattr(all_, name)[ids]), name


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
def test_seed_epoch_and_view_change_the_draws(change):
    base = {"seed": 0, "epoch": 0, "view": 0}
    first = draw_view(ViewsConfig(), IDS, SHAPE, **base)
    second = draw_view(ViewsConfig(), IDS, SHAPE, **(base | change))
    assert (first.sigma != second.sigma).all()
    assert abs(np.corrcoef(first.sigma, second.sigma)[0, 1]) < 0.03
