import subprocess
import sys

import pytest
from pydantic import ValidationError

from runner.errors import ConfigError
from runner.views_config import BlurConfig, ViewsConfig, choose_kernel, choose_sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.5}, "less than or equal to 1"),
        ({"jitter": {"probability": -0.1}}, "greater than or equal to 0"),
        ({"jitter": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"global_scale": [0.5, 0.1]}, r"must go from low to high, got \[0.5, 0.1\]"),
        ({"local_scale": [0.5, 1.1]}, "less than or equal to 1"),
        ({"aspect_ratio": [0, 1]}, "greater than 0"),
        ({"blur": {"kernel": 4}}, "kernel must be odd, got 4"),
        ({"blur": {"sigma": [2.0, 0.1]}}, "must go from low to high"),
        ({"local_size": 13}, "local_views is 0"),
        ({"global_views": 0}, "greater than or equal to 1"),
        ({"jitter_mode": "quick"}, "'exact' or 'fast'"),
        ({"flips": 0.5}, "Extra inputs"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ViewsConfig(**options)


def test_sizes_follow_the_data_set_unless_set():
    assert choose_sizes(ViewsConfig(local_views=2), 32, 32) == [32, 32, 13, 13]
    assert choose_sizes(ViewsConfig(), 96, 64) == [64, 64]
    assert choose_sizes(ViewsConfig(global_size=64, local_views=1, local_size=20), 96, 96) == [64, 64, 20]


@pytest.mark.parametrize(("size", "width"), [(13, 3), (28, 3), (32, 3), (64, 7), (96, 9), (192, 19)])
def test_the_kernel_is_a_tenth_of_the_view(size, width):
    assert choose_kernel(BlurConfig(), size) == width


def test_a_kernel_wider_than_the_view_is_refused():
    with pytest.raises(ConfigError, match=r"views\.blur\.kernel: 9 is too wide for a view of 4 pixels"):
        choose_kernel(BlurConfig(kernel=9), 4)


def test_the_options_do_not_need_torch():
    code = "import runner.views_config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
