"""The baseline of every language model: counting which token follows which."""

import numpy as np


def bigram_loss(train_tokens: np.ndarray, eval_tokens: np.ndarray, vocab_size: int) -> float:
    """Mean cross-entropy in nats per token of a bigram model, counted on train_tokens, for eval_tokens after the first.

    Smoothed after Witten and Bell: p(b | a) = (count(a b) + kinds(a) p(b)) / (count(a) + kinds(a)), where kinds(a) is how many different
    tokens followed a, and p(b) = (count(b) + 1) / (n + V).

    >>> round(bigram_loss(np.array([0, 1] * 50), np.array([0, 1, 0, 1]), vocab_size=2), 3)
    0.01

    Raises: ValueError for fewer than two tokens on either side.
    Source: The Zero-Frequency Problem, IEEE Transactions on Information Theory 37 (4), 1991, method C.
    """
    if len(train_tokens) < 2 or len(eval_tokens) < 2:
        raise ValueError(f"a bigram needs at least two tokens, got {len(train_tokens)} and {len(eval_tokens)}")
    train, evaluated = np.asarray(train_tokens, dtype=np.int64), np.asarray(eval_tokens, dtype=np.int64)
    pairs, pair_counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    followed = np.bincount(train[:-1], minlength=vocab_size)
    kinds = np.bincount(pairs // vocab_size, minlength=vocab_size)
    unigram = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    first, second = evaluated[:-1], evaluated[1:]
    wanted = first * vocab_size + second
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where(pairs[place] == wanted, pair_counts[place], 0)
    weight = np.maximum(kinds[first], 1)  # a token that nothing followed leaves the unigram
    return float(-np.log((count + weight * unigram[second]) / (followed[first] + weight)).mean())
