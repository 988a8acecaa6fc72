"""Scores of predicted names and texts against what people wrote: sub-token F1, exact match, BLEU, ROUGE-L.

Every score lies in 0..1. Texts are lists of words; `split_words` makes them.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence

ORDERS = 4
"""BLEU counts sequences of 1 to 4 words."""


def split_words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def subtoken_f1(predicted: Collection[str], expected: Collection[str]) -> float:
    """Harmonic mean of precision and recall over sets of sub-tokens; 1 if both are empty.

    Source: method name prediction of code2vec (Alon et al. 2019, section 6).
    """
    predicted, expected = set(predicted), set(expected)
    if not predicted and not expected:
        return 1.0
    return 2 * len(predicted & expected) / (len(predicted) + len(expected))


def exact_match(predicted: Collection[str], expected: Collection[str]) -> float:
    """1 if the sets are equal, else 0."""
    return float(set(predicted) == set(expected))


def bleu(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> float:
    """BLEU of a corpus with one reference for each text, sequences of up to four words.

    An order without a match counts 1/2, 1/4, ... matches, halved for each such order (the `exp` smoothing of
    sacrebleu). The corpus scores 0 if no word matches at all or no prediction is four words long.

    Source: Papineni et al. 2002; Chen & Cherry 2014, smoothing 3.
    """
    assert len(predicted) == len(expected)
    length, wanted = sum(map(len, predicted)), sum(map(len, expected))
    matches, totals = [0] * ORDERS, [0] * ORDERS
    for guess, reference in zip(predicted, expected, strict=True):
        for n in range(1, ORDERS + 1):
            found = _sequences(guess, n)
            matches[n - 1] += sum((found & _sequences(reference, n)).values())
            totals[n - 1] += sum(found.values())
    if matches[0] == 0 or totals[-1] == 0:
        return 0.0
    logs, smoothing = 0.0, 1.0
    for matched, total in zip(matches, totals, strict=True):
        if matched == 0:
            smoothing /= 2
        logs += math.log((matched or smoothing) / total)
    brevity = min(0.0, 1 - wanted / length)
    return math.exp(logs / ORDERS + brevity)


def _sequences(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def rouge_l(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the longest common subsequence; 1 if both are empty.

    Source: Lin 2004, section 3.1, with beta 1.
    """
    if not predicted and not expected:
        return 1.0
    return 2 * _longest_common(predicted, expected) / (len(predicted) + len(expected))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
