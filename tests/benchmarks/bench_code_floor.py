"""What a linear map already finds: comment or source against binary, the floor for a trained encoder.

    python -m tests.benchmarks.bench_code_floor [FILE.jsonl.gz] [--train PACKAGE...] [--test PACKAGE...]
        [--binary O2] [--names stripped|kept] [--split test|validation] [--pool N] [--width 200] [--seed 0]

Each text is the tf-idf of its words (one vocabulary for all, words in at least two training texts, sublinear),
taken to a few dimensions by truncated SVD of the training texts of its kind (LSA). A ridge regression, fitted
on the training functions, maps the queries to the space of the gallery, where cosine similarity ranks them.
`tf-idf` has no map: it lives on the words both texts share, so with names stripped nothing is left of it.
The rows are those of `data: {name: code_triples}`, and the pool is that of the evaluation `retrieval`.

Without a file: the sample in experiments/samples/code, lua against libpng and zlib.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runner.data.code_triples import SHIPPED, Config, Example, choose_examples, read_all
from runner.evaluation.retrieval import draw_pool, retrieval
from runner.tokenizers.words import split_text

PAIRS = [("comment", "binary"), ("source", "binary"), ("binary", "source"), ("comment", "source")]
Features = NDArray[np.float64]


def words_of(row: Example) -> dict[str, list[str]]:
    """The words of each text of a row."""
    return {
        "comment": list(split_text(row.triple.comment, "comment")),
        "source": list(split_text(row.triple.source, "source")),
        "binary": list(split_text(row.binary, row.kind)),
    }


def weigh(train: Sequence[dict[str, list[str]]], test: Sequence[dict[str, list[str]]]):
    """tf-idf of all texts by view, training and test functions."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=2, sublinear_tf=True)
    vectorizer.fit([words for texts in train for words in texts.values()])
    return [{view: vectorizer.transform([t[view] for t in texts]) for view in train[0]} for texts in (train, test)]


def reduce(train, test, width: int, seed: int) -> tuple[dict[str, Features], dict[str, Features]]:
    """The LSA of each view, fitted on the training functions."""
    from sklearn.decomposition import TruncatedSVD

    reduced: tuple[dict[str, Features], dict[str, Features]] = ({}, {})
    for view in train:
        width_here = min(width, min(train[view].shape) - 1)
        svd = TruncatedSVD(width_here, random_state=seed).fit(train[view])
        reduced[0][view], reduced[1][view] = svd.transform(train[view]), svd.transform(test[view])
    return reduced


def map_linearly(train_x: Features, train_y: Features, test_x: Features) -> Features:
    """The queries in the space of the gallery, less its mean; ridge regression of penalty 1."""
    from sklearn.linear_model import Ridge

    mean_x, mean_y = train_x.mean(axis=0), train_y.mean(axis=0)
    model = Ridge(alpha=1.0, fit_intercept=False).fit(train_x - mean_x, train_y - mean_y)
    mapped: Features = model.predict(test_x - mean_x)
    return mapped


def score(query: Features, gallery: Features) -> dict[str, float]:
    """Retrieval where query i belongs to gallery item i."""
    labels = torch.arange(len(query))
    return retrieval(torch.from_numpy(query), torch.from_numpy(gallery), labels, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="the floor of code retrieval: a ridge map between LSA spaces")
    parser.add_argument("path", nargs="?", type=Path, default=SHIPPED)
    parser.add_argument("--train", nargs="+", default=["lua"])
    parser.add_argument("--test", nargs="+", default=["libpng", "zlib"])
    parser.add_argument("--binary", choices=["O0", "O1", "O2", "O3", "ir"], default="O2")
    parser.add_argument("--names", choices=["stripped", "kept"], default="stripped")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--pool", type=int)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    config = Config(
        paths=(str(arguments.path),),
        train_packages=tuple(arguments.train),
        test_packages=tuple(arguments.test),
        binaries=(arguments.binary,),
        names=arguments.names,
    )
    triples = read_all(config)
    train, test = ([words_of(row) for row in choose_examples(config, s, triples)] for s in ("train", arguments.split))
    test = [test[i] for i in draw_pool(len(test), arguments.pool).tolist()]
    sparse = weigh(train, test)
    reduced = reduce(*sparse, arguments.width, arguments.seed)

    chance = sum(1 / rank for rank in range(1, len(test) + 1)) / len(test)
    print(f"{len(train)} functions to fit, {len(test)} to rank; binary {arguments.binary}, names {arguments.names}")
    print(f"chance MRR {chance:.4f}")
    print(f"{'query -> gallery':20} {'':8} {'R@1':>7} {'R@5':>7} {'R@10':>7} {'MRR':>7}")
    for query, gallery in PAIRS:
        mapped = map_linearly(reduced[0][query], reduced[0][gallery], reduced[1][query])
        centred = reduced[1][gallery] - reduced[0][gallery].mean(axis=0)
        rows = {
            "tf-idf": score(sparse[1][query].toarray(), sparse[1][gallery].toarray()),
            "ridge": score(mapped, centred),
        }
        for name, found in rows.items():
            values = " ".join(f"{found[key]:7.3f}" for key in ("recall_at_1", "recall_at_5", "recall_at_10", "mrr"))
            print(f"{f'{query} -> {gallery}':20} {name:8} {values}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
