"""The colour changes against kornia and against formulas written out for one pixel."""

import colorsys

import kornia.color
import kornia.enhance
import pytest
import torch

from runner import color


@pytest.fixture
def images():
    """Natural ranges, plus what breaks formulas: black, white, greys, pure colours, ties between channels."""
    random = torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    special = torch.tensor(
        [
            [0, 0, 0],
            [1, 1, 1],
            [0.4, 0.4, 0.4],
            [1, 0, 0],
            [0, 1, 0],
            [0, 0, 1],
            [1, 1, 0],
            [0, 1, 1],
            [1, 0, 1],
        ]
    )
    random[0, :, :, 0] = special.T
    random[1] = random[1, :1]
    random[2] = (random[2] * 4).round() / 4
    return random


def changed(change, images, *args):
    copy = images.clone()
    change(copy, *args)
    return copy


def spread(images, low, high):
    return torch.linspace(low, high, len(images))


def test_brightness(images):
    factor = spread(images, 0, 2)
    expected = kornia.enhance.adjust_brightness_accumulative(images, factor)
    torch.testing.assert_close(changed(color.change_brightness, images, factor), expected)


def test_contrast(images):
    factor = spread(images, 0, 2)
    expected = kornia.enhance.adjust_contrast_with_mean_subtraction(images, factor)
    torch.testing.assert_close(changed(color.change_contrast, images, factor), expected)


def test_saturation(images):
    factor = spread(images, 0, 2)
    expected = kornia.enhance.adjust_saturation_with_gray_subtraction(images, factor)
    torch.testing.assert_close(changed(color.change_saturation, images, factor), expected)


@pytest.mark.parametrize("turns", [-0.5, -0.2, -1 / 6, 0.0, 0.1, 1 / 3, 0.5])
def test_hue(images, turns):
    out = changed(color.shift_hue, images, torch.full((len(images),), turns))
    for before, after in zip(
        images.permute(0, 2, 3, 1).reshape(-1, 3).double().tolist(),
        out.permute(0, 2, 3, 1).reshape(-1, 3).tolist(),
        strict=True,
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), abs=2e-6)


def test_hue_with_a_shift_for_each_image(images):
    turns = spread(images, -0.2, 0.2)
    expected = kornia.enhance.adjust_hue(images, turns * 2 * torch.pi)
    torch.testing.assert_close(changed(color.shift_hue, images, turns), expected, atol=1e-5, rtol=0)


def test_greyscale(images):
    expected = kornia.color.rgb_to_grayscale(images).expand_as(images)
    torch.testing.assert_close(changed(color.drop_color, images), expected)


def test_solarize(images):
    images[0, 0, 0, 0] = 0.5
    expected = torch.where(images < 0.5, images, 1 - images)
    assert torch.equal(changed(color.solarize, images, 0.5), expected)


def test_mean_luminance(images):
    expected = kornia.color.rgb_to_grayscale(images).mean((1, 2, 3))
    torch.testing.assert_close(color.mean_luminance(images), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 32, 169, 1000])
def test_pairwise_sum(length):
    values = torch.rand(4, length, dtype=torch.float64)
    torch.testing.assert_close(color.sum_pairwise(values), values.sum(1, keepdim=True))


def test_one_channel_has_no_colour_to_change(images):
    grey = images[:, :1].contiguous()
    half = torch.full((len(grey),), 0.5)
    for change, args in (
        (color.change_saturation, (half,)),
        (color.shift_hue, (half,)),
        (color.drop_color, ()),
    ):
        assert torch.equal(changed(change, grey, *args), grey)
    mean = grey.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed(color.change_contrast, grey, half), 0.5 * grey + 0.5 * mean)
