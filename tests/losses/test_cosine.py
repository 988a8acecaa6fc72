"""Negative cosines against golden values and torch's own cosine."""

import pytest
import torch
from torch.nn import functional as F

from runner.group import Group
from runner.losses.cosine import negative_cosine, symmetric_negative_cosine
from tests.golden import cases, load_golden
from tests.losses.test_sigmoid import GRADIENT, VALUE, close, gradients, leaf, random_case

ALONE = Group()


def test_values_and_gradients_equal_the_golden_ones():
    for case in cases(load_golden("ssl_losses")):
        inputs = [leaf(case["z1"]), leaf(case["z2"])]
        loss = negative_cosine(*inputs, ALONE)
        close(loss, case["negcos"], **VALUE)
        for view, gradient in enumerate(gradients(loss, inputs), 1):
            close(gradient, case[f"negcos_g{view}"], **GRADIENT)


def test_byol_equals_the_golden_values():
    golden = load_golden("ssl_byol")
    students, teachers = ([leaf(golden[f"{who}{view}"]) for view in (1, 2)] for who in ("student", "teacher"))
    p1, p2 = (student @ golden["predictor_W"] for student in students)
    loss = symmetric_negative_cosine((p1, p2), tuple(teachers), ALONE)
    close(loss, golden["loss"], **VALUE)
    for name, gradient in zip(("g_s1", "g_s2"), gradients(loss, students), strict=True):
        close(gradient, golden[name], **GRADIENT)


def test_targets_are_constants():
    """Without the stop-gradient, SimSiam collapses."""
    inputs = [random_case(seed=seed)[0] for seed in range(4)]
    loss = symmetric_negative_cosine((inputs[0], inputs[1]), (inputs[2], inputs[3]), ALONE)
    found = gradients(loss, inputs)
    assert found[2] is found[3] is None
    # each prediction is compared with the target of the other view
    wanted = gradients(-F.cosine_similarity(inputs[0], inputs[3].detach()).mean() / 2, inputs[:1])
    close(found[0], wanted[0], rtol=1e-10, atol=1e-14)


def test_ends_of_the_range():
    x = random_case()[0].detach()
    close(symmetric_negative_cosine((x, -x), (-2 * x, 3 * x), ALONE), -1.0, rtol=1e-12, atol=0)
    close(symmetric_negative_cosine((x, x), (-2 * x, -3 * x), ALONE), 1.0, rtol=1e-12, atol=0)


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda x, y: negative_cosine(x, y, ALONE), random_case(n=5, d=4)[:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_float32_inside(dtype):
    x, y = random_case(n=64, d=32, dtype=torch.float32)[:2]
    exact = negative_cosine(x, y, ALONE)
    low = [leaf(x.detach().to(dtype)), leaf(y.detach().to(dtype))]
    with torch.autocast("cpu", dtype=dtype):
        loss = negative_cosine(*low, ALONE)
    assert loss.dtype == torch.float32
    close(loss, exact.detach(), rtol=1e-2, atol=0)
    for mine, theirs in zip(gradients(loss, low), gradients(exact, (x, y)), strict=True):
        assert mine.isfinite().all()
        assert (mine.float() - theirs).norm() <= 1e-2 * theirs.norm()
