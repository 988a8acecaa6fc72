"""Views made in a second on one core, against kornia's batched augmentations with the same operations.

    python -m tests.benchmarks.bench_views [--rounds N]

Two views of 32 x 32 pixels, batch 256, blurred; and the same with four local views of 13 pixels. The
contestants take turns in one process; the figures are medians over the rounds of process CPU time. Exits
with 1 if the fast jitter is below 2.5 times kornia's rate, or the exact one below 1.5 times.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from runner.views import make_views
from runner.views_config import ViewsConfig, choose_kernel, choose_sizes

BATCH, SIZE = 256, 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
GOALS = {"exact": 1.5, "fast": 2.5}


def kornia_views(config: ViewsConfig) -> Callable[[Tensor, int], object]:
    """The same operations, drawn anew for each sample; only the order of the jitter is the batch's."""
    import kornia.augmentation as K

    augmentations = []
    for number, size in enumerate(choose_sizes(config, SIZE, SIZE)):
        large = number < config.global_views
        jitter, blur, solarize = config.jitter, config.blur, config.solarize
        width = choose_kernel(blur, size)
        operations = [
            K.RandomResizedCrop((size, size), config.global_scale if large else config.local_scale, p=1.0),
            K.RandomHorizontalFlip(p=config.flip_probability),
            K.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=jitter.probability),
            K.RandomGrayscale(p=config.greyscale_probability),
            K.RandomGaussianBlur((width, width), blur.sigma, p=blur.probability),
            K.RandomSolarize((solarize.threshold,) * 2, (0.0, 0.0), p=solarize.probability if large else 0.0),
            K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        ]
        augmentations.append(K.AugmentationSequential(*operations, data_keys=["input"]))
    return lambda images, epoch: [augment(images.float() / 255) for augment in augmentations]


def our_views(config: ViewsConfig) -> Callable[[Tensor, int], object]:
    ids = torch.arange(BATCH)
    return lambda images, epoch: make_views(images, ids, config, seed=0, epoch=epoch, mean=MEAN, std=STD)


def compare(local_views: int, rounds: int) -> dict[str, float]:
    """Median views a second of each contestant."""
    config = ViewsConfig(local_views=local_views)
    contestants = {
        "kornia": kornia_views(config),
        "exact": our_views(config),
        "fast": our_views(config.model_copy(update={"jitter_mode": "fast"})),
    }
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for epoch in range(rounds + 2):
        for name, make in contestants.items():
            start = time.process_time()
            make(images, epoch)
            if epoch >= 2:
                seconds[name].append(time.process_time() - start)
    views = BATCH * (config.global_views + local_views)
    return {name: views / statistics.median(times) for name, times in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    missed = []
    print(f"batch {BATCH} of {SIZE} x {SIZE}, one core, median CPU time of {rounds} rounds")
    print(f"{'views':16}{'':8}{'views/s':>10}{'us/view':>10}{'x kornia':>10}{'goal':>8}")
    for local_views in (0, 4):
        label = f"2 x {SIZE}" + (f" + {local_views} x 13" if local_views else "")
        rates = compare(local_views, rounds)
        for name, rate in rates.items():
            ratio, goal = rate / rates["kornia"], GOALS.get(name)
            wanted = f"{goal:8.1f}" if goal and not local_views else ""
            print(f"{label:16}{name:8}{rate:10.0f}{1e6 / rate:10.1f}{ratio:10.2f}{wanted}")
            if wanted and goal and ratio < goal:
                missed.append(name)
    if missed:
        print(f"below the goal: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
