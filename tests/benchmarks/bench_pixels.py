"""The floor that an encoder must beat on the shipped images: `python -m tests.benchmarks.bench_pixels`."""

from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from runner import named

STRENGTHS = (0.001, 0.01, 0.1)
"""Inverse regularisation; the best on the test images is quoted, which favours the pixels."""


def main() -> None:
    module = named.load("data", "fashion_mnist_sample")
    train, test = (module.build(module.Config(), split) for split in ("train", "test"))
    scaler = StandardScaler().fit(train.images.flatten(1))
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(scaler.transform(train.images.flatten(1)), train.labels)
        score = model.score(scaler.transform(test.images.flatten(1)), test.labels)
        print(f"logistic regression on standardised pixels, C={strength}: top-1 {score:.4f}")


if __name__ == "__main__":
    main()
