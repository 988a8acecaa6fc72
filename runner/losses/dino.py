"""DINO: the student predicts which prototypes the teacher assigns to other views of the same image.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".

Shapes: B samples on this rank, V views of the student of which the teacher sees the first T, K prototypes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.group import Group
from runner.losses.rows import full_precision, mean_part


def dino(
    student_BVK: Tensor,
    teacher_BTK: Tensor,
    centre_K: Tensor,
    group: Group,
    *,
    teacher_temperature: float,
    student_temperature: float = 0.1,
) -> Tensor:
    """Cross entropy between teacher and student (equation 3), mean over pairs of different views and samples.

    -sum_k softmax((teacher_t - centre) / teacher_temperature)_k log softmax(student_v / student_temperature)_k
    for t != v. Teacher and centre are constants. View t of both is the same image; there must be 2 views.
    A centre of zeros centres nothing, which is right for the first step.
    """
    T, V = teacher_BTK.shape[1], student_BVK.shape[1]
    assert 1 <= T <= V and V > 1, (teacher_BTK.shape, student_BVK.shape)
    with torch.autocast(student_BVK.device.type, enabled=False):
        with torch.no_grad():
            logits_BTK = (full_precision(teacher_BTK) - centre_K) / teacher_temperature
            assigned_BTK = logits_BTK.softmax(-1)
        predicted_BVK = F.log_softmax(full_precision(student_BVK) / student_temperature, -1)
        surprise_BTV = -assigned_BTK @ predicted_BVK.mT
        others_B = surprise_BTV.sum((1, 2)) - surprise_BTV.diagonal(dim1=1, dim2=2).sum(1)
        return mean_part(others_B / (T * (V - 1)), group)


@torch.no_grad()
def update_centre(centre_K: Tensor, started: Tensor, teacher_BTK: Tensor, group: Group, momentum: float = 0.9) -> None:
    """Move the centre, in place, towards the mean of the teacher's logits on all ranks (equation 4).

    c <- momentum c + (1 - momentum) mean, and c <- mean where `started` is 0, which then becomes 1. Both are
    buffers of the caller, zeros at the start; call it after the loss of the same logits. Nothing waits for the
    device.
    """
    logits_BTK = teacher_BTK.to(centre_K.dtype)
    rows = centre_K.new_full((1,), logits_BTK.shape[0] * logits_BTK.shape[1])
    total = group.all_reduce_sum(torch.cat([logits_BTK.sum((0, 1)), rows]))
    keep = momentum * (started > 0).to(centre_K.dtype)
    centre_K.lerp_(total[:-1] / total[-1], 1 - keep)
    started.fill_(1)


def teacher_temperature(epoch: int, start: float = 0.04, end: float = 0.07, warmup_epochs: int = 30) -> float:
    """The teacher's temperature in an epoch, counted from 0: `start` to `end` in equal steps, then `end`.

    Of the warm-up the last epoch already has `end`.
    """
    if epoch >= warmup_epochs - 1:
        return end
    return start + (end - start) * epoch / (warmup_epochs - 1)
