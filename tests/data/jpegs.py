"""Small JPEG files for trees in the layouts of the data sets, and what pillow reads back from them."""

import numpy as np
from PIL import Image


def write_jpeg(path, size=(64, 64), mode="RGB", seed=0):
    """Write smooth noise of (width, height); returns its (3, H, W) pixels as they come out of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), np.uint8)
    image = Image.fromarray(coarse[..., 0] if mode == "L" else coarse, mode="CMYK" if mode == "CMYK" else None)
    image.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG")
    return read_pixels(path)


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
