"""DINO's cross entropy, centre and temperature against golden values and a plain loop."""

import pytest
import torch

from runner.group import Group
from runner.losses.dino import dino, teacher_temperature, update_centre
from tests.golden import load_golden
from tests.losses.test_sigmoid import VALUE, close, gradients, leaf

ALONE = Group()


def random_views(samples=5, views=4, targets=2, width=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(samples, views, width, dtype=torch.float64, generator=generator)
    teacher = 0.3 * torch.randn(samples, targets, width, dtype=torch.float64, generator=generator)
    return leaf(student.to(dtype)), teacher.to(dtype), 0.1 * torch.randn(width, generator=generator).to(dtype)


def naive(student, teacher, centre, teacher_temperature, student_temperature=0.1):
    losses = [
        -sum(
            ((teacher[b, t] - centre) / teacher_temperature).softmax(0)
            * (student[b, v] / student_temperature).log_softmax(0)
        )
        for b in range(student.shape[0])
        for t in range(teacher.shape[1])
        for v in range(student.shape[1])
        if t != v
    ]
    return sum(losses) / len(losses)


def test_three_steps_equal_the_golden_ones_and_the_first_has_no_centre():
    golden = load_golden("ssl_dino")
    centre, started = torch.zeros(7, dtype=torch.float64), torch.tensor(0)
    for step in range(3):
        case = {name: golden[f"s{step}_{name}"] for name in ("epoch", "student", "teacher", "loss", "g")}
        close(centre, golden[f"s{step}_center_before"].flatten(), **VALUE)
        student, teacher = leaf(case["student"].transpose(0, 1)), case["teacher"].transpose(0, 1)
        temperature = teacher_temperature(int(case["epoch"]))
        loss = dino(student, teacher, centre, ALONE, teacher_temperature=temperature)
        # the golden schedule has float32 accuracy, and a temperature divides the logits
        close(loss, case["loss"], **VALUE)
        close(gradients(loss, [student])[0].transpose(0, 1), case["g"], rtol=1e-5, atol=1e-7)
        update_centre(centre, started, teacher, ALONE)
        close(centre, golden[f"s{step}_center_after"].flatten(), **VALUE)
    assert started == 1


def test_temperature_equals_the_golden_schedule_and_then_stays():
    golden = load_golden("ssl_dino")["teacher_temp_schedule"].tolist()
    assert [teacher_temperature(epoch) for epoch in range(30)] == pytest.approx(golden, rel=1e-6)
    assert teacher_temperature(29) == teacher_temperature(30) == teacher_temperature(1000) == 0.07
    assert teacher_temperature(0, warmup_epochs=0) == teacher_temperature(0, warmup_epochs=1) == 0.07


@pytest.mark.parametrize(("views", "targets"), [(2, 2), (5, 2), (3, 1)])
def test_equals_a_plain_loop_over_pairs_of_different_views(views, targets):
    student, teacher, centre = random_views(views=views, targets=targets)
    expected = naive(student, teacher, centre, 0.05)
    loss = dino(student, teacher, centre, ALONE, teacher_temperature=0.05)
    close(loss, expected.detach(), rtol=1e-12, atol=0)
    close(gradients(loss, [student])[0], gradients(expected, [student])[0], rtol=1e-10, atol=1e-14)


def test_gradcheck_and_a_teacher_without_gradient():
    student, teacher, centre = random_views(samples=3, width=4)
    assert torch.autograd.gradcheck(
        lambda student: dino(student, teacher, centre, ALONE, teacher_temperature=0.1, student_temperature=0.5),
        [student],
    )
    loss = dino(student, leaf(teacher), centre, ALONE, teacher_temperature=0.1)
    assert gradients(loss, [student, leaf(teacher)])[1] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_float32_inside(dtype):
    student, teacher, centre = random_views(samples=32, width=64, dtype=torch.float32)
    low, target = leaf(student.detach().to(dtype)), teacher.to(dtype)
    exact = dino(student, teacher, centre, ALONE, teacher_temperature=0.04)
    with torch.autocast("cpu", dtype=dtype):
        loss = dino(low, target, centre, ALONE, teacher_temperature=0.04)
    assert loss.dtype == torch.float32
    close(loss, exact.detach(), rtol=1e-2, atol=0)
    (mine,), (theirs,) = gradients(loss, [low]), gradients(exact, [student])
    assert mine.isfinite().all()
    assert (mine.float() - theirs).norm() <= 2e-2 * theirs.norm()


def test_the_centre_is_changed_in_place_and_keeps_its_precision():
    centre, started = torch.zeros(7), torch.zeros((), dtype=torch.int64)
    place = centre.data_ptr()
    teacher = random_views()[1].to(torch.bfloat16)
    update_centre(centre, started, teacher.requires_grad_(), ALONE, momentum=0.9)
    assert centre.data_ptr() == place and centre.dtype == torch.float32 and not centre.requires_grad
    close(centre, teacher.detach().float().mean((0, 1)), rtol=1e-6, atol=1e-7)
    first = centre.clone()
    update_centre(centre, started, teacher + 1, ALONE, momentum=0.9)
    close(centre, 0.9 * first + 0.1 * (teacher.detach() + 1).float().mean((0, 1)), rtol=1e-6, atol=1e-7)
