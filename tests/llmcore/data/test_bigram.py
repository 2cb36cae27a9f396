"""The bigram baseline."""

import itertools
import math

import numpy as np
import pytest

from llmcore.data import bigram_loss


def test_it_equals_the_formula_counted_by_hand():
    train, evaluated, vocab_size = [0, 1, 0, 2, 0, 1, 3], [0, 1, 1, 3, 0], 4
    total = 0.0
    for first, second in itertools.pairwise(evaluated):
        unigram = (train.count(second) + 1) / (len(train) + vocab_size)
        followers = [after for before, after in itertools.pairwise(train) if before == first]
        kinds = max(1, len(set(followers)))
        total -= math.log((followers.count(second) + kinds * unigram) / (len(followers) + kinds))
    assert bigram_loss(np.array(train), np.array(evaluated), vocab_size) == pytest.approx(total / 4, rel=1e-12)


def test_probabilities_of_all_followers_add_up_to_one():
    train = np.random.default_rng(0).integers(0, 6, size=50)
    for first in range(7):
        likelihoods = [math.exp(-bigram_loss(train, np.array([first, second]), 7)) for second in range(7)]
        assert sum(likelihoods) == pytest.approx(1, rel=1e-9)


def test_one_token_is_too_few():
    with pytest.raises(ValueError, match="at least two tokens, got 1 and 5"):
        bigram_loss(np.array([1]), np.arange(5), 9)
