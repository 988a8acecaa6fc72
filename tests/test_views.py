"""Views against a pipeline that takes one sample at a time, and what they must not depend on."""

import kornia.color
import kornia.enhance
import kornia.filters
import pytest
import torch
import torch.nn.functional as F

from runner import views
from runner.errors import DataError
from runner.view_draws import draw_view
from runner.views import make_views, plain_view
from runner.views_config import ViewsConfig, choose_kernel, choose_sizes

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
MULTI_CROP = {"local_views": 2, "blur": {"probability": 0.7}, "greyscale_probability": 0.3}
EVERYTHING = [MULTI_CROP, MULTI_CROP | {"jitter_mode": "fast"}, {"global_size": 48}, {"global_size": 20}]


def make_images(count, channels=3, height=32, width=32, seed=0):
    """Smooth random pictures: noise would be averaged away by crops that shrink."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def make(images, ids, config, seed=0, epoch=0):
    channels = images.shape[1]
    large, small = make_views(images, ids, config, seed=seed, epoch=epoch, mean=MEAN[:channels], std=STD[:channels])
    return large + small


def make_one_by_one(images, ids, config):
    """Every view of every sample alone, from kornia's and torch's own operations."""
    changes = (
        lambda x, factor: kornia.enhance.adjust_brightness_accumulative(x, factor),
        lambda x, factor: kornia.enhance.adjust_contrast_with_mean_subtraction(x, factor),
        lambda x, factor: kornia.enhance.adjust_saturation_with_gray_subtraction(x, factor),
        lambda x, factor: kornia.enhance.adjust_hue(x, factor * 2 * torch.pi),
    )
    made = []
    for number, size in enumerate(choose_sizes(config, *images.shape[2:])):
        draws = draw_view(config, ids.numpy(), images.shape[2:], seed=0, epoch=0, view=number)
        rows = []
        for i, image in enumerate(images):
            top, left, height, width = draws.box[i]
            x = image[None, :, top : top + height, left : left + width].float() / 255
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
            x = x.flip(3) if draws.flip[i] else x
            for change in draws.order[i] if draws.jitter[i] else ():
                x = changes[change](x, float(draws.factors[i, change])).clamp(0, 1)
            x = kornia.color.rgb_to_grayscale(x).expand_as(x) if draws.greyscale[i] else x
            if draws.blur[i]:
                width = choose_kernel(config.blur, size)
                sigma = float(draws.sigma[i])
                x = kornia.filters.gaussian_blur2d(x, (width, width), (sigma, sigma), "reflect")
            x = torch.where(x >= config.solarize.threshold, 1 - x, x) if draws.solarize[i] else x
            rows.append(x)
        made.append((torch.cat(rows) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    return made


@pytest.mark.parametrize("options", [MULTI_CROP, {"global_size": 48}, {"jitter": {"probability": 0.0}}])
def test_views_are_those_of_the_plain_pipeline(options):
    # a pixel within rounding of the threshold would be inverted in one pipeline alone
    config = ViewsConfig(**options, solarize={"threshold": 0.50001234})
    images, ids = make_images(100, height=36), torch.arange(100) * 7
    for view, expected in zip(make(images, ids, config), make_one_by_one(images, ids, config), strict=True):
        wrong = (view - expected).abs() > 1e-4
        assert wrong.float().mean() < 1e-5


@pytest.mark.parametrize("options", EVERYTHING)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_does_not_depend_on_its_batch(options, channels):
    config = ViewsConfig(**options)
    images, ids = make_images(256, channels), torch.arange(256) + 1000
    together = make(images, ids, config)

    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    for view, again in zip(together, make(images[shuffled], ids[shuffled], config), strict=True):
        assert torch.equal(view[shuffled], again)

    for i in range(0, 256, 5):
        alone = make(images[i : i + 1], ids[i : i + 1], config)
        assert all(torch.equal(view[i], one[0]) for view, one in zip(together, alone, strict=True))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_make_the_views_of_one_process(world):
    config = ViewsConfig(**MULTI_CROP)
    images, ids = make_images(96), torch.arange(96)
    together = make(images, ids, config)
    for rank in range(world):
        share = make(images[rank::world], ids[rank::world], config)
        assert all(torch.equal(view[rank::world], own) for view, own in zip(together, share, strict=True))


@pytest.mark.parametrize("options", EVERYTHING)
def test_threads_and_chunks_do_not_matter(options, monkeypatch):
    config = ViewsConfig(**options)
    images, ids = make_images(200), torch.arange(200)
    threads = torch.get_num_threads()
    expected = make(images, ids, config)
    monkeypatch.setattr(views, "CHUNK_VALUES", 10**9)
    torch.set_num_threads(3)
    try:
        again = make(images, ids, config)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seed_and_epoch_change_every_view(change):
    config, images, ids = ViewsConfig(), make_images(20), torch.arange(20)
    for before, after in zip(make(images, ids, config), make(images, ids, config, **change), strict=True):
        assert ((before - after).abs().amax((1, 2, 3)) > 0.01).all()


def test_the_views_of_a_sample_differ():
    first, second = make(make_images(20), torch.arange(20), ViewsConfig())
    assert ((first - second).abs().amax((1, 2, 3)) > 0.01).all()


def test_lists_and_shapes():
    config = ViewsConfig(global_views=3, local_views=4)
    large, small = make_views(make_images(5), torch.arange(5), config, seed=0, epoch=0, mean=MEAN, std=STD)
    assert [tuple(view.shape) for view in large] == [(5, 3, 32, 32)] * 3
    assert [tuple(view.shape) for view in small] == [(5, 3, 13, 13)] * 4
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in large + small)


def test_an_empty_batch_gives_empty_views():
    views_ = make(make_images(5)[:0], torch.arange(0), ViewsConfig(local_views=1))
    assert [tuple(view.shape) for view in views_] == [(0, 3, 32, 32)] * 2 + [(0, 3, 13, 13)]


def test_views_without_normalisation_lie_in_0_to_1():
    for mode in ("exact", "fast"):
        for view in make(make_images(50), torch.arange(50), ViewsConfig(normalise=False, jitter_mode=mode)):
            assert view.min() >= 0 and view.max() <= 1 + 1e-6


def test_everything_switched_off_leaves_the_image():
    config = ViewsConfig(
        global_scale=(1.0, 1.0),
        aspect_ratio=(1.0, 1.0),
        flip_probability=0.0,
        jitter={"probability": 0.0},
        greyscale_probability=0.0,
        blur={"probability": 0.0},
        solarize={"probability": 0.0},
    )
    images = make_images(7)
    expected = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(plain_view(images, MEAN, STD), expected)
    for mode in ("exact", "fast"):
        config = config.model_copy(update={"jitter_mode": mode})
        torch.testing.assert_close(make(images, torch.arange(7), config)[0], expected)


@pytest.mark.parametrize(
    ("strength", "hue", "typical", "most"),
    [(0.1, 0.0, 3e-4, 0.07), (0.05, 0.0125, 6e-3, 0.1), (0.2, 0.05, 0.02, 0.3)],
)
def test_fast_jitter_is_close_to_the_exact_one_where_jitter_is_small(strength, hue, typical, most):
    """On saturated images, where HSV and YIQ differ most; `typical` bounds the mean over all pixels."""
    jitter = {
        "brightness": strength,
        "contrast": strength,
        "saturation": strength,
        "hue": hue,
        "probability": 1.0,
    }
    images, ids = make_images(256), torch.arange(256)
    options = {"jitter": jitter, "solarize": {"probability": 0.0}, "normalise": False}
    exact, fast, none = (
        make(images, ids, ViewsConfig(**(options | change)))[0]
        for change in ({}, {"jitter_mode": "fast"}, {"jitter": {"probability": 0.0}})
    )
    difference = (exact - fast).abs()
    assert difference.mean() < typical
    assert difference.max() < most
    # it is the jitter that agrees, not its absence
    assert (exact - none).abs().mean() > 3 * difference.mean()


def test_fast_jitter_turns_the_hue_the_same_way():
    red = torch.tensor([200, 40, 40], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    options = {"greyscale_probability": 0.0, "blur": {"probability": 0.0}, "solarize": {"probability": 0.0}}
    jitter = {"probability": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.1}
    images, ids = red.expand(64, 3, 8, 8).contiguous(), torch.arange(64)
    tints = []
    for mode in ("exact", "fast"):
        config = ViewsConfig(**options, jitter=jitter, jitter_mode=mode, normalise=False)
        pixels = make(images, ids, config)[0][:, :, 4, 4]
        tints.append(pixels[:, 1] - pixels[:, 2])  # towards yellow or towards magenta
    assert torch.corrcoef(torch.stack(tints))[0, 1] > 0.95


def test_two_channels_are_refused():
    with pytest.raises(DataError, match="1 or 3 channels, these have 2"):
        make(make_images(1, channels=2), torch.arange(1), ViewsConfig())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_views_and_never_waits():
    config, images, ids = ViewsConfig(**MULTI_CROP), make_images(256), torch.arange(256)
    there = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = make(there, ids, config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for here, view in zip(make(images, ids, config), made, strict=True):
        torch.testing.assert_close(view.cpu(), here, atol=1e-5, rtol=0)
