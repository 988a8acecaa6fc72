"""What the losses are raced against, and the inputs of the race.

SCL's plain loss is the formula as it reads. CLIP and SigLIP are open_clip's, whose package does not import
without torchvision: its module of losses is loaded on its own, and where it is not installed at all the
same formulas stand in for it, and the benchmark says so. SupCon is pytorch-metric-learning's.
"""

import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.group import Group
from runner.losses.info_nce import clip
from runner.losses.nt_xent import nt_xent
from runner.losses.sigmoid import scl, siglip
from runner.losses.supcon import supcon

ALONE = Group()
TEMPERATURE = 0.1
CLASSES = 100
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of x, y, log_scale and bias."""


class Case(NamedTuple):
    name: str
    peer: Loss
    tiled: Loss
    target: str
    """What the ratio of their times should be."""

    scale: float = 4.5
    """One over the temperature."""

    bias: float = -5.0
    two_sided: bool = False
    """y has a gradient too."""

    memory_target: str = ""


def cases() -> list[Case]:
    """SCL without gradient on the target side, as in training; the others with gradient everywhere."""
    return [
        _scl("gamma 1", 1.0, 0.0, True, "at least 6", "at least 10"),
        _scl("gamma 1 + KL", 1.0, 1.0, True, "at least 4", "at least 10"),
        _scl("gamma 0.5", 0.5, 0.0, True),
        _scl("gamma 0.5 + KL", 0.5, 1.0, True),
        _scl("gamma 1, lean", 1.0, 0.0, False),
        Case(
            "CLIP", peer_clip, tiled_clip, "at least 1.7", scale=1 / 0.07, two_sided=True, memory_target="at least 10"
        ),
        Case("SigLIP", peer_siglip, tiled_siglip, "at least 1.8", scale=10.0, bias=-10.0, two_sided=True),
        Case("SupCon", peer_supcon(), tiled_supcon, "at least 4"),
        Case("NT-Xent", peer_nt_xent, tiled_nt_xent, "", two_sided=True),
    ]


def make_inputs(case: Case, rows: int, width: int) -> list[Tensor]:
    """x, y, log_scale and bias; y resembles x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator)
    y = x + torch.randn(rows, width, generator=generator)
    log_scale, bias = torch.tensor(math.log(case.scale)), torch.tensor(case.bias)
    return [x.requires_grad_(), y.requires_grad_(case.two_sided), log_scale.requires_grad_(), bias.requires_grad_()]


def _scl(name: str, gamma: float, alpha: float, with_kl: bool, target: str = "", memory_target: str = "") -> Case:
    return Case(
        name,
        functools.partial(plain_scl, gamma=gamma, alpha=alpha, with_kl=with_kl),
        lambda *inputs: scl(*inputs, ALONE, gamma=gamma, alpha=alpha).loss,
        target,
        memory_target=memory_target,
    )


def plain_scl(x, y, log_scale, bias, *, gamma: float, alpha: float, with_kl: bool) -> Tensor:
    """The formula as it reads, by autograd."""
    logits = log_scale.exp().clamp(max=5.0) * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T + bias
    z = (2 * torch.eye(len(x)) - 1) * logits
    loss = -((1 - z.sigmoid()) ** gamma * F.logsigmoid(z)).sum() / len(x)
    if not with_kl:
        return loss
    rows, columns = logits.log_softmax(1), logits.T.log_softmax(1)
    return loss + alpha * F.kl_div(rows, columns, log_target=True, reduction="batchmean")


@functools.cache
def open_clip_losses() -> ModuleType | None:
    """open_clip's module of losses, without the rest of its package."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        return None
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).with_name("loss.py"))
    assert spec is not None and spec.loader is not None, package.origin
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peer_clip(x, y, log_scale, bias) -> Tensor:
    x, y, scale = F.normalize(x, dim=1), F.normalize(y, dim=1), log_scale.exp()
    if losses := open_clip_losses():
        return losses.ClipLoss()(x, y, scale)
    labels = torch.arange(len(x))
    return (F.cross_entropy(scale * x @ y.T, labels) + F.cross_entropy(scale * y @ x.T, labels)) / 2


def tiled_clip(x, y, log_scale, bias) -> Tensor:
    return clip(x, y, log_scale, ALONE)


def peer_siglip(x, y, log_scale, bias) -> Tensor:
    x, y, scale = F.normalize(x, dim=1), F.normalize(y, dim=1), log_scale.exp()
    if losses := open_clip_losses():
        return losses.SigLipLoss()(x, y, scale, bias)
    logits = scale * x @ y.T + bias
    return -F.logsigmoid((2 * torch.eye(len(x)) - torch.ones_like(logits)) * logits).sum() / len(x)


def tiled_siglip(x, y, log_scale, bias) -> Tensor:
    return siglip(x, y, log_scale, bias, ALONE)


def peer_supcon() -> Loss:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=TEMPERATURE)
    return lambda x, y, log_scale, bias: loss(x, torch.arange(len(x)) % CLASSES)


def tiled_supcon(x, y, log_scale, bias) -> Tensor:
    return supcon(x, torch.arange(len(x)) % CLASSES, TEMPERATURE, ALONE)


def peer_nt_xent(x, y, log_scale, bias) -> Tensor:
    """The formula as it reads, on the 2N rows of both views."""
    z = F.normalize(torch.cat([x, y]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(x)))


def tiled_nt_xent(x, y, log_scale, bias) -> Tensor:
    return nt_xent(x, y, TEMPERATURE, ALONE)
