import kornia.color
import numpy as np
import pytest
import torch

from runner import color, jitter
from runner.view_draws import draw_view
from runner.views import send
from runner.views_config import ViewsConfig


def draw(count, **options):
    return draw_view(ViewsConfig(**options), np.arange(count), (8, 8), seed=5, epoch=0, view=0)


def sent(plan):
    return send(plan, torch.device("cpu"))


@pytest.mark.parametrize("probability", [0.0, 0.6, 1.0])
def test_each_image_undergoes_its_own_changes_in_its_own_order(probability):
    draws = draw(60, jitter={"probability": probability})
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = images.clone()
    for i in range(60):
        for change in draws.order[i] if draws.jitter[i] else ():
            jitter.CHANGES[change](expected[i : i + 1], torch.tensor([draws.factors[i, change]]).float())
    assert torch.equal(jitter.apply_exact(images, draws, sent(jitter.plan_exact(draws))), expected)


def change_one(image, draws, i):
    """The fast jitter step by step; hue in YUV, whose chroma plane is that of YIQ, turned."""
    brightness, contrast, saturation, turns = (draws.factors[i] if draws.jitter[i] else jitter.IDENTITY).tolist()
    image = image * brightness
    image = contrast * image + (1 - contrast) * kornia.color.rgb_to_grayscale(image).mean()
    grey = kornia.color.rgb_to_grayscale(image)
    image = grey if draws.greyscale[i] else saturation * image + (1 - saturation) * grey
    y, u, v = kornia.color.rgb_to_yuv(image.expand(3, -1, -1))
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    return kornia.color.yuv_to_rgb(torch.stack([y, cos * u - sin * v, cos * v + sin * u])).clamp(0, 1)


def test_the_fast_matrix_is_the_four_changes_in_a_row():
    draws = draw(60, greyscale_probability=0.3)
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([change_one(image, draws, i) for i, image in enumerate(images)])
    plan = sent(jitter.plan_fast(draws, 3))
    color.apply_matrix(images, plan["matrix"], plan["lift"])
    # kornia rounds the coefficients of YUV to three digits
    torch.testing.assert_close(images, expected, atol=8e-3, rtol=0)


def test_the_fast_matrix_of_one_channel_is_brightness_and_contrast():
    draws = draw(20, jitter={"probability": 1.0})
    images = torch.rand(20, 1, 8, 8)
    brightness, contrast = torch.from_numpy(draws.factors[:, :2]).float()[:, :, None, None, None].unbind(1)
    mean = (images * brightness).mean((1, 2, 3), keepdim=True)
    expected = (contrast * images * brightness + (1 - contrast) * mean).clamp(0, 1)
    plan = sent(jitter.plan_fast(draws, 1))
    color.apply_matrix(images, plan["matrix"], plan["lift"])
    torch.testing.assert_close(images, expected)
