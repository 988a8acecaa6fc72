"""Text metrics against values worked out by hand; BLEU and ROUGE-L agree with sacrebleu and rouge-score."""

import math

import pytest

from runner.text_metrics import bleu, exact_match, rouge_l, split_words, subtoken_f1


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        ([], [], 1),
        (["get"], [], 0),
        ([], ["get"], 0),
        (["get", "name"], ["name", "get"], 1),
        (["get", "name"], ["get", "item", "count"], 2 / 5),
        (["get", "get"], ["get"], 1),
    ],
)
def test_subtoken_f1(predicted, expected, score):
    assert subtoken_f1(predicted, expected) == pytest.approx(score)
    assert exact_match(predicted, expected) == (score == 1)


def test_bleu_by_hand():
    """1-grams 4/5, 2-grams 1/4 (the list), 3-grams none of 3, 4-grams none of 2, five words against six."""
    predicted, expected = split_words("free the list of nodes"), split_words("frees the nodes of the list")
    by_hand = (4 / 5 * 1 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** (1 / 4) * math.exp(1 - 6 / 5)
    assert bleu([predicted], [expected]) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.20801195378010617)  # sacrebleu 2.5, smoothing exp


def test_bleu_counts_over_the_corpus_and_a_word_once():
    predicted = [split_words("the cat is on the mat"), split_words("a b c d e")]
    expected = [split_words("there is a cat on the mat"), split_words("a b c x e f")]
    assert bleu(predicted, expected) == pytest.approx(0.26618720884122365)  # sacrebleu 2.5
    assert bleu([split_words("the the the the")], [split_words("the cat sat there")]) == pytest.approx(
        (1 / 4 * (1 / 2) / 3 * (1 / 4) / 2 * (1 / 8) / 1) ** (1 / 4)
    )


def test_bleu_at_its_ends():
    text = split_words("swap the two halves of a word")
    assert bleu([text], [text]) == 1
    assert bleu([text], [split_words("nothing in common")]) == 0
    assert bleu([[]], [text]) == 0
    assert bleu([text + text], [text]) < 0.5
    assert bleu([text[:4]], [text]) == pytest.approx(math.exp(1 - 7 / 4))


@pytest.mark.parametrize(
    ("predicted", "expected", "common"),
    [
        ("police kill the gunman", "police killed the gunman", 3),
        ("the gunman kill police", "police killed the gunman", 2),
        ("a b c d e f", "f e d c b a", 1),
        ("a b a b", "b a b a", 3),
        ("a", "b", 0),
    ],
)
def test_rouge_l_by_hand(predicted, expected, common):
    """Lin 2004 has the first two pairs."""
    predicted, expected = predicted.split(), expected.split()
    score = 2 * common / (len(predicted) + len(expected))
    assert rouge_l(predicted, expected) == pytest.approx(score)
    assert rouge_l(expected, predicted) == pytest.approx(score)


def test_rouge_l_of_nothing():
    assert rouge_l([], []) == 1
    assert rouge_l([], ["a"]) == rouge_l(["a"], []) == 0


def test_words_and_punctuation():
    assert split_words("Frees the list, e.g. `node_t*`.") == [
        *("frees", "the", "list", ",", "e", ".", "g", ".", "`", "node_t", "*", "`", ".")
    ]
