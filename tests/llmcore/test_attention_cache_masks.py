"""Masks by their definition, and the cache: decoding step by step equals reading the text at once."""

import inspect

import pytest
import torch
from attention_oracle import random_qkv

from llmcore.attention import (
    KVCache,
    attention,
    causal_mask,
    packed_mask,
    padding_mask,
    prefix_mask,
    sliding_window_mask,
)


def rows(mask):
    return mask.int().tolist()


def test_causal_mask_is_aligned_at_the_bottom_right():
    assert rows(causal_mask(3)) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert rows(causal_mask(2, 5)) == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert rows(causal_mask(3, 2)) == [[0, 0], [1, 0], [1, 1]]
    assert causal_mask(1, 1).dtype == torch.bool


def test_sliding_window_counts_tokens_strictly_before_the_query():
    assert rows(sliding_window_mask(4, left_window=0)) == rows(torch.eye(4))
    assert rows(sliding_window_mask(2, 4, left_window=1)) == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert sliding_window_mask(5, left_window=9).equal(causal_mask(5))
    with pytest.raises(ValueError, match="left_window must be at least 0"):
        sliding_window_mask(3, left_window=-1)


def test_prefix_is_seen_by_all_and_the_rest_is_causal():
    assert rows(prefix_mask(4, prefix=2)) == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert prefix_mask(3, 5, prefix=0).equal(causal_mask(3, 5))
    with pytest.raises(ValueError, match="prefix must be at least 0"):
        prefix_mask(3, prefix=-1)


def test_packed_mask_keeps_documents_apart_and_padding_out():
    mask = packed_mask(torch.tensor([[4, 4, 9, 9, -1], [-1, 3, 3, 4, 3]]))
    for b, documents in enumerate([[4, 4, 9, 9, -1], [-1, 3, 3, 4, 3]]):
        for i, query in enumerate(documents):
            for j, key in enumerate(documents):
                assert mask[b, i, j].item() == (query == key and j <= i and query != -1)
    assert rows(packed_mask(torch.tensor([[1, 1, -1]]), causal=False)) == [[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]


def test_padding_mask_hides_keys_not_queries():
    q, k, v = random_qkv(requires_grad=False)
    real = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    loud_v = v.masked_fill(real[:, None, :, None] == 0, 1e9)
    out = attention(q, k, loud_v, mask=padding_mask(real))
    torch.testing.assert_close(out[1:], attention(q[1:], k[1:, :, 2:], v[1:, :, 2:]))


@pytest.mark.parametrize("window", [None, 0, 3, 50])
@pytest.mark.parametrize("max_length", [None, 40])
@pytest.mark.parametrize("chunks", [[1] * 40, [20] + [1] * 20, [7, 13, 1, 1, 8, 10], [40]])
def test_decoding_with_a_cache_equals_reading_at_once(chunks, max_length, window):
    q, k, v = random_qkv(batch=1, heads=2, kv_heads=1, t_q=40, t_k=40, requires_grad=False)
    want = attention(q, k, v, causal=True, window=window)
    cache, start, outs = KVCache(2, max_length=max_length, window=window), 0, []
    for size in chunks:
        part = slice(start, start + size)
        cache.append(0, k[:, :, part], v[:, :, part])
        assert cache.length == start
        keys, values = cache.append(1, k[:, :, part], v[:, :, part])
        outs.append(attention(q[:, :, part], keys, values, causal=True, window=window))
        start += size
    assert cache.length == 40
    torch.testing.assert_close(torch.cat(outs, dim=2), want, atol=1e-12, rtol=1e-10)


def test_append_returns_views_and_allocates_seldom():
    cache, addresses = KVCache(1), set()
    token = torch.zeros(1, 1, 1, 2)
    for _ in range(1000):
        k, _ = cache.append(0, token, token)
        addresses.add(k.data_ptr())
    assert len(addresses) <= 9
    assert cache.nbytes == 1000 * 2 * 2 * 4
    assert cache.allocated_bytes <= 1.6 * cache.nbytes


def test_a_window_bounds_memory_also_after_a_long_prompt():
    cache = KVCache(1, window=10)
    prompt, token = torch.zeros(1, 2, 3000, 4), torch.zeros(1, 2, 1, 4)
    assert cache.append(0, prompt, prompt)[0].shape[2] == 3000
    for _ in range(50):
        assert cache.append(0, token, token)[0].shape[2] == 11
    assert cache.nbytes == 2 * 10 * 2 * 4 * 4
    assert cache.allocated_bytes <= 12 * cache.nbytes
    assert cache.length == 3050


def test_a_static_cache_allocates_once_and_refuses_more():
    cache = KVCache(1, max_length=5)
    k, _ = cache.append(0, torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    again, _ = cache.append(0, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert k.data_ptr() == again.data_ptr()
    with pytest.raises(ValueError, match="holds 5 tokens, got 6"):
        cache.append(0, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    cache.reset()
    assert cache.length == 0
    assert cache.append(0, torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))[0].shape == (1, 1, 1, 2)


def test_reorder_follows_beams_and_changes_their_number():
    cache = KVCache(1)
    k = torch.arange(3.0).view(3, 1, 1, 1)
    cache.append(0, k, 10 * k)
    cache.reorder(torch.tensor([2, 2, 0, 1]))
    keys, values = cache.append(0, torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1))
    assert keys[:, 0, 0, 0].tolist() == [2, 2, 0, 1]
    assert values[:, 0, 0, 0].tolist() == [20, 20, 0, 10]


def test_truncate_takes_back_a_draft_unless_the_window_has_moved_on():
    cache, k = KVCache(1), torch.arange(9.0).view(1, 1, 9, 1)
    cache.append(0, k, k)
    cache.truncate(6)
    assert cache.append(0, -k[:, :, :1], k[:, :, :1])[0].flatten().tolist() == [0, 1, 2, 3, 4, 5, 0]
    with pytest.raises(ValueError, match=r"length must be in 0\.\.7"):
        cache.truncate(8)
    moving = KVCache(1, window=2)
    moving.append(0, k, k)
    moving.append(0, k[:, :, :1], k[:, :, :1])
    with pytest.raises(ValueError, match="the window has dropped the tokens before 7"):
        moving.truncate(3)


def test_layers_may_have_windows_of_their_own():
    cache, token = KVCache(2, window=[1, None]), torch.zeros(1, 1, 1, 1)
    for _ in range(5):
        shapes = [cache.append(layer, token, token)[0].shape[2] for layer in (0, 1)]
    assert shapes == [2, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KVCache(0), "at least 1 layer"),
        (lambda: KVCache(2, window=[1]), "one window for each"),
        (lambda: KVCache(1, window=-1), "windows must be at least 0"),
        (lambda: KVCache(1, max_length=0), "max_length must be at least 1"),
    ],
)
def test_impossible_caches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tensors_that_do_not_fit_are_refused():
    cache, k = KVCache(1), torch.zeros(2, 3, 1, 4)
    cache.append(0, k, k)
    for other in (torch.zeros(1, 3, 1, 4), torch.zeros(2, 3, 1, 5), k.double()):
        with pytest.raises(ValueError, match="k must fit the cached"):
            cache.append(0, other, other)
    with pytest.raises(ValueError, match="holds no gradients"):
        cache.append(0, k.clone().requires_grad_(), k)
    with pytest.raises(ValueError, match="same B, K, T"):
        inspect.unwrap(KVCache.append)(cache, 0, k, k[:1])
