"""Views of images: random crops, colours and blur, made a batch at a time on the device with the images.

A view is a function of (seed, epoch, sample id, view number) and of the image. What happens to each sample
is drawn on the host (runner/view_draws.py), moved to the device in two small copies that nothing waits for,
and done there by operations that treat every sample as if it were alone (runner/filters.py, runner/jitter.py,
runner/color.py). So a view is the same bit for bit in any batch and on any number of ranks and threads.

Shapes: B samples, N some of them, C channels (1 or 3), H x W pixels of the source, S pixels of a side of a
view, R weights of the blur kernel from its centre outwards.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner import color, filters, jitter
from runner.errors import DataError
from runner.view_draws import Floats, ViewDraws, draw_view
from runner.views_config import ViewsConfig, choose_kernel, choose_sizes

CHUNK_VALUES = 2**18
"""Source values handled at once on a CPU: tensors of about 1 MB stay in its cache and in its heap."""

Array = NDArray[Any]


def make_views(
    images_BCHW: Tensor,
    ids_B: Tensor,
    config: ViewsConfig,
    *,
    seed: int,
    epoch: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[list[Tensor], list[Tensor]]:
    """The global and the local views of uint8 images, each (B, C, S, S) float32 on the images' device.

    `ids_B` are the samples' places in the data set; they lie on the CPU, because the draws are made there.
    `mean` and `std` are per channel, of pixels scaled to 0..1. Never waits for the device.

    Raises DataError for images with neither one nor three channels.
    """
    B, C, H, W = images_BCHW.shape
    assert images_BCHW.dtype == torch.uint8 and ids_B.device.type == "cpu" and len(ids_B) == B
    if C not in (1, 3):
        raise DataError(f"views are made of images with 1 or 3 channels, these have {C}")
    sizes = choose_sizes(config, H, W)
    views = [torch.empty(B, C, size, size, device=images_BCHW.device) for size in sizes]

    chunks = math.ceil(images_BCHW.numel() / CHUNK_VALUES) if images_BCHW.device.type == "cpu" else 1
    inputs_and_outputs = (tensor.chunk(max(1, chunks)) for tensor in (images_BCHW, ids_B, *views))
    for images, ids, *outs in zip(*inputs_and_outputs, strict=True):
        for number, out in enumerate(outs):
            draws = draw_view(config, ids.numpy(), (H, W), seed=seed, epoch=epoch, view=number)
            view = make_view(images, draws, config, sizes[number])
            normalise(view, mean, std, out=out) if config.normalise else out.copy_(view)
    return views[: config.global_views], views[config.global_views :]


def plain_view(images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, C, H, W) float32: the uint8 images as they are, normalised; what encoders see in evaluation."""
    scaled = images_BCHW.float() / 255
    return normalise(scaled, mean, std, out=scaled)


def normalise(images_BCHW: Tensor, mean: Sequence[float], std: Sequence[float], *, out: Tensor) -> Tensor:
    """(images - mean) / std by channel, with plain numbers so that no small tensor has to be sent."""
    for channel, target, m, s in zip(images_BCHW.unbind(1), out.unbind(1), mean, std, strict=True):
        torch.sub(channel, m, out=target).mul_(1 / s)
    return out


def make_view(images_BCHW: Tensor, draws: ViewDraws, config: ViewsConfig, size: int) -> Tensor:
    """(B, C, S, S) in 0..1: one view of uint8 images as drawn, not yet normalised."""
    exact = config.jitter_mode == "exact"
    plan = {
        "box": draws.box.astype(np.float64),
        "flip": draws.flip.astype(np.float64),
        "greyscale": np.flatnonzero(draws.greyscale),
        "blur": np.flatnonzero(draws.blur),
        "kernel": shape_kernel(draws.sigma[draws.blur], choose_kernel(config.blur, size)),
        "solarize": np.flatnonzero(draws.solarize),
        **(jitter.plan_exact(draws) if exact else jitter.plan_fast(draws, images_BCHW.shape[1])),
    }
    sent = send(plan, images_BCHW.device)

    view = filters.crop_and_resize(images_BCHW, sent["box"], sent["flip"], size)
    if exact:
        view = jitter.apply_exact(view, draws, sent)
        change_rows(view, sent["greyscale"], color.drop_color)
    else:
        color.apply_matrix(view, sent["matrix"], sent["lift"])
    if draws.blur.all():
        view = filters.blur(view, sent["kernel"])
    else:
        change_rows(view, sent["blur"], lambda part: part.copy_(filters.blur(part, sent["kernel"])))
    change_rows(view, sent["solarize"], lambda part: color.solarize(part, config.solarize.threshold))
    return view


def change_rows(images_BCHW: Tensor, rows_N: Tensor, change: Callable[[Tensor], object]) -> None:
    """Apply an in-place change to some of the images only."""
    if len(rows_N):
        part_NCHW = images_BCHW.index_select(0, rows_N)
        change(part_NCHW)
        images_BCHW.index_copy_(0, rows_N, part_NCHW)


def shape_kernel(sigma_B: Floats, width: int) -> Floats:
    """(B, R) weights of Gaussian kernels of `width` pixels, each kernel summing to 1."""
    distance_R = np.arange(width // 2 + 1)
    weights_BR = np.exp(-0.5 * (distance_R / sigma_B[:, None]) ** 2)
    kernels_BR: Floats = weights_BR / (2 * weights_BR.sum(1, keepdims=True) - weights_BR[:, :1])
    return kernels_BR


def send(arrays: dict[str, Array], device: torch.device) -> dict[str, Tensor]:
    """Host arrays as tensors on `device`, floats as float32: one copy for each type, and no wait."""
    tensors = {
        name: torch.from_numpy(array if array.dtype.kind == "i" else array.astype(np.float32))
        for name, array in arrays.items()
    }
    if device.type == "cpu":
        return tensors
    sent: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.int64):
        group = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
        packed = torch.cat([tensor.flatten() for tensor in group.values()])
        # only from pinned memory does a copy not hold up the host
        moved = packed.pin_memory().to(device, non_blocking=True)
        pieces = torch.split(moved, [tensor.numel() for tensor in group.values()])
        sent |= {name: piece.view_as(group[name]) for name, piece in zip(group, pieces, strict=True)}
    return sent
