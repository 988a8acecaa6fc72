"""No pairwise loss stores N x N anything: the high-water mark of a process that computes one."""

import subprocess
import sys

import pytest

from tests.losses.memory import RESET

PROGRAM = """
import torch
from runner.group import Group
from runner.losses.relic import relic
from runner.losses.sigmoid import scl
from tests.losses.memory import peak_bytes, reset_peak

torch.set_num_threads(1)


def run(rows, width, alpha, target_gradient):
    x, y = torch.randn(2, rows, width)
    x.requires_grad_()
    y.requires_grad_(target_gradient)
    log_scale, bias = torch.tensor(1.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)
    {loss}.backward()


run(8, {width}, {alpha}, {target_gradient})
before = reset_peak()
run({rows}, {width}, {alpha}, {target_gradient})
print(peak_bytes() - before)
"""
SCL = "scl(x, y, log_scale, bias, Group(), alpha=alpha).loss"
RELIC = "relic(x, y, log_scale, Group(), alpha=alpha).loss"


@pytest.mark.skipif(not RESET.exists(), reason="only Linux tells the high-water mark")
@pytest.mark.parametrize("loss, alpha, target_gradient", [(SCL, 0.0, False), (SCL, 1.0, True), (RELIC, 1.0, True)])
def test_memory_is_linear_in_the_rows(loss, alpha, target_gradient):
    """At most 16 N D bytes and 64 MB above the inputs, where one N x N matrix would take 268 MB."""
    rows, width = 8192, 64
    program = PROGRAM.format(loss=loss, rows=rows, width=width, alpha=alpha, target_gradient=target_gradient)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    extra = int(result.stdout) - 8 * rows * width
    assert extra <= 16 * rows * width + 64 * 2**20, f"{extra / 2**20:.0f} MB"
