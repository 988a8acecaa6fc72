"""The floors that an encoder must beat: `python -m tests.benchmarks.bench_pixels [--cifar DIR]`.

On the shipped Fashion-MNIST images, or on CIFAR-10 in DIR: batch 1 to train on, the first 2,000 test images.
"""

import argparse

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from runner import named
from runner.evaluation import FrozenFeatures, knn

STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse regularisation; the best on the test images is quoted, which favours the pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", metavar="DIR")
    folder = parser.parse_args().cifar
    module = named.load("data", "cifar10" if folder else "fashion_mnist_sample")
    config = module.Config(root=folder, batches=(1,), test_limit=2000) if folder else module.Config()
    train, test = (module.build(config, split) for split in ("train", "test"))
    scaler = StandardScaler().fit(train.images.flatten(1))
    known, unknown = (scaler.transform(split.images.flatten(1)) for split in (train, test))
    frozen = [
        FrozenFeatures(torch.from_numpy(pixels).float(), split.labels)
        for pixels, split in zip((known, unknown), (train, test), strict=True)
    ]
    found = knn.run(knn.Config(), *frozen, device=torch.device("cpu"), seed=0)
    print(f"nearest neighbours of standardised pixels, k=20: top-1 {found['top1']:.4f}")
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=60 if folder else 1000)
        model.fit(known, train.labels)
        score = model.score(unknown, test.labels)
        print(f"logistic regression on standardised pixels, C={strength}: top-1 {score:.4f}")


if __name__ == "__main__":
    main()
