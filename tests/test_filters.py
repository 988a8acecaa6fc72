"""Cropping against F.interpolate of the cut-out part, blurring against kornia."""

import kornia.filters
import pytest
import torch
import torch.nn.functional as F

from runner import filters
from runner.views import shape_kernel


def crop_one(image, box, flip, size):
    top, left, height, width = box
    part = image[None, :, top : top + height, left : left + width].float() / 255
    resized = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.flip(-1) if flip else resized


BOXES = [
    (0, 0, 20, 30),
    (3, 5, 1, 1),
    (0, 29, 20, 1),
    (7, 2, 8, 8),
    (1, 0, 19, 25),
    (4, 9, 2, 17),
    (0, 0, 5, 5),
]


@pytest.mark.parametrize("size", [4, 8, 13, 20, 32, 45])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_what_interpolate_makes_of_the_part(size, channels):
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (len(BOXES), channels, 20, 30), dtype=torch.uint8, generator=generator)
    flips = [i % 2 for i in range(len(BOXES))]
    out = filters.crop_and_resize(images, torch.tensor(BOXES).float(), torch.tensor(flips).float(), size)
    expected = torch.stack([crop_one(*each, size) for each in zip(images, BOXES, flips, strict=True)])
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)


def test_the_whole_image_at_its_own_size_is_unchanged():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).expand(5, 4)
    out = filters.crop_and_resize(images, box, torch.zeros(5), 16)
    torch.testing.assert_close(out, images / 255)
    torch.testing.assert_close(filters.crop_and_resize(images, box, torch.ones(5), 16), images.flip(3) / 255)


def test_enlarging_agrees_with_grid_sample():
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    part = image[..., 2:10, 3:12].float() / 255
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    grid = F.affine_grid(theta, [1, 3, 24, 24], align_corners=False)
    expected = F.grid_sample(part, grid, mode="bilinear", padding_mode="border", align_corners=False)
    out = filters.crop_and_resize(image, torch.tensor([[2.0, 3, 8, 9]]), torch.zeros(1), 24)
    torch.testing.assert_close(out, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("width", [3, 5, 9, 19])
@pytest.mark.parametrize("shape", [(32, 32), (13, 21)])
def test_blur_is_kornias_gaussian(width, shape):
    images = torch.rand(6, 3, *shape, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
    expected = kornia.filters.gaussian_blur2d(images, (width, width), sigma[:, None].expand(6, 2), "reflect")
    kernel = torch.from_numpy(shape_kernel(sigma.double().numpy(), width)).float()
    torch.testing.assert_close(filters.blur(images, kernel), expected, atol=2e-6, rtol=0)


def test_kernels_sum_to_one():
    kernel = shape_kernel(torch.linspace(0.1, 3, 7).double().numpy(), 9)
    assert kernel[:, 0] + 2 * kernel[:, 1:].sum(1) == pytest.approx(1)
