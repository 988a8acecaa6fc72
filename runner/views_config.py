"""What `views:` in an experiment file may say; it does not need torch."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from runner.errors import ConfigError
from runner.schema import Options


def check_rising(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if low > high:
        raise ValueError(f"must go from low to high, got [{low}, {high}]")
    return limits


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(check_rising)]
Scale = Annotated[tuple[Share, Share], AfterValidator(check_rising)]
Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]
ViewSize = Annotated[int, Field(ge=4)]


class JitterConfig(Options):
    """Random changes of colour; a strength of 0 leaves that property alone."""

    probability: Probability = 0.8
    """Share of the views that are changed."""

    brightness: Strength = 0.8
    """The factor is uniform in 1 - brightness .. 1 + brightness."""

    contrast: Strength = 0.8
    """The factor is uniform in 1 - contrast .. 1 + contrast."""

    saturation: Strength = 0.8
    """The factor is uniform in 1 - saturation .. 1 + saturation."""

    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """The shift is uniform in -hue .. hue, in turns of the colour circle."""


class BlurConfig(Options):
    """Gaussian blur."""

    probability: Probability = 1.0
    """Share of the views that are blurred."""

    sigma: Range = (0.1, 2.0)
    """The standard deviation is uniform in this range, in pixels of the view."""

    kernel: Annotated[int, Field(ge=3)] | None = None
    """Odd width of the kernel in pixels. None: a tenth of the view, odd, at least 3 (32 -> 3, 96 -> 9)."""

    @model_validator(mode="after")
    def check_kernel(self) -> Self:
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        return self


class SolarizeConfig(Options):
    """Inversion of the bright pixels, of global views alone."""

    probability: Probability = 0.2
    """Share of the global views that are solarized."""

    threshold: Annotated[float, Field(ge=0, le=1)] = 127 / 255
    """Pixels at or above this are inverted."""


class ViewsConfig(Options):
    """How the views of each image are made; the defaults are those of SCL (sigmoid contrastive learning)."""

    global_views: Annotated[int, Field(ge=1)] = 2
    """Large views of each image."""

    local_views: Annotated[int, Field(ge=0)] = 0
    """Small views of each image (multi-crop); SCL uses 4."""

    global_size: ViewSize | None = None
    """Height and width of the global views in pixels. None: the shorter side of the data set's images."""

    local_size: ViewSize | None = None
    """Height and width of the local views in pixels. None: int(global size * 3/7)."""

    global_scale: Scale = (0.1, 1.0)
    """Share of the image's area that a global view shows."""

    local_scale: Scale = (0.05, 1.0)
    """Share of the image's area that a local view shows."""

    aspect_ratio: Range = (3 / 4, 4 / 3)
    """Width over height of the part that is shown, log-uniform in this range."""

    flip_probability: Probability = 0.5
    """Share of the views that are mirrored left to right."""

    jitter: JitterConfig = JitterConfig()
    """Random brightness, contrast, saturation and hue."""

    jitter_mode: Literal["exact", "fast"] = "exact"
    """exact: the four changes one after the other in random order, clamped in between, hue in HSV. fast: one
    3x3 colour matrix for each view, clamped once, hue turned in YIQ: less time, slightly other colours."""

    greyscale_probability: Probability = 0.2
    """Share of the views without colour."""

    blur: BlurConfig = BlurConfig()
    """Gaussian blur."""

    solarize: SolarizeConfig = SolarizeConfig()
    """Inversion of the bright pixels."""

    normalise: bool = True
    """Subtract the data set's mean and divide by its standard deviation, in evaluation too."""

    @model_validator(mode="after")
    def check_local(self) -> Self:
        if self.local_size is not None and self.local_views == 0:
            raise ValueError(f"local_size is {self.local_size} but local_views is 0: there is no local view to size")
        return self


def choose_sizes(config: ViewsConfig, height: int, width: int) -> list[int]:
    """The size in pixels of each view of a `height` x `width` image: the global ones, then the local ones."""
    large = config.global_size or min(height, width)
    small = config.local_size or max(1, int(large * 3 / 7))
    return [large] * config.global_views + [small] * config.local_views


def choose_kernel(config: BlurConfig, size: int) -> int:
    """The width in pixels of the blur kernel of a view of `size` pixels.

    Raises ConfigError where the kernel, mirrored at the edge, would reach beyond the opposite edge.
    """
    width = config.kernel or max(3, int(0.1 * size) // 2 * 2 + 1)
    if width // 2 >= size:
        raise ConfigError(f"views.blur.kernel: {width} is too wide for a view of {size} pixels")
    return width
