"""Mistakes that people make in attention kernels: (file, piece of source, its replacement, the case that must notice)."""

from flash_cases import Case, case

PLAIN = case("mutant", t_q=20, t_k=20)
CAUSAL = case("mutant", t_q=20, t_k=37, causal=True)
SQUARE = case("mutant", t_q=33, t_k=33, causal=True)
TALL = case("mutant", t_q=37, t_k=20, causal=True)
WINDOW = case("mutant", t_q=37, t_k=37, causal=True, window=17)
LEFT = case("mutant", t_q=37, t_k=37, window=5)
DOCUMENTS = case("mutant", t_q=37, borders=(0, 9, 20, 37))
CAPPED = case("mutant", t_q=20, softcap=0.7)
GROUPED = case("mutant", heads=4, kv_heads=2, t_q=18)
FALLING = case("mutant", t_q=20, t_k=40, large=600.0)
DECODE = case("mutant", heads=2, t_q=3, t_k=70, causal=True)

MUTANTS: dict[str, tuple[str, str, str, Case]] = {
    # Which keys a row may see.
    "causal aligned at the top left": ("_tiles", "position = rows + (n_keys - n_queries)", "position = rows", CAUSAL),
    "a token hides itself": ("_tiles", "tl.minimum(end, position + 1)", "tl.minimum(end, position)", SQUARE),
    "a token sees the next": ("_tiles", "tl.minimum(end, position + 1)", "tl.minimum(end, position + 2)", SQUARE),
    "window one short": ("_tiles", "tl.maximum(first, position - window)", "tl.maximum(first, position - window + 1)", WINDOW),
    "window one long": ("_tiles", "tl.maximum(first, position - window)", "tl.maximum(first, position - window - 1)", WINDOW),
    "documents see what follows": ("_tiles", "end = tl.load(doc_ends + rows)", "end = first * 0 + n_keys", DOCUMENTS),
    "documents see what came before": ("_tiles", "first = tl.load(doc_starts + rows)", "first = position * 0", DOCUMENTS),
    # Which tiles are visited, and which of them need no mask.
    "first tile of a window dropped": ("_tiles", "low = tl.maximum(top_first, 0) // BLOCK * BLOCK", "low = tl.cdiv(tl.maximum(top_first, 0), BLOCK) * BLOCK", WINDOW),
    "window's edge taken for a whole tile": ("_tiles", "tl.minimum(tl.cdiv(tl.maximum(bottom_first, 0), BLOCK), ", "tl.minimum(tl.maximum(bottom_first, 0) // BLOCK, ", WINDOW),
    "diagonal taken for a whole tile": ("_tiles", "tl.maximum(top_end, 0) // BLOCK * BLOCK", "tl.cdiv(tl.maximum(top_end, 0), BLOCK) * BLOCK", SQUARE),
    "rows start one late": ("_tiles", "low = tl.maximum(low, key + shift)", "low = tl.maximum(low, key + shift + 1 + BLOCK)", SQUARE),
    "rows of the diagonal taken for whole": ("_tiles", "tl.maximum(whole_low, last + shift)", "tl.maximum(whole_low, key + shift)", SQUARE),
    "last row of a window dropped": ("_tiles", "tl.minimum(high, last + shift + window + 1)", "tl.minimum(high, last + shift + window)", WINDOW),
    "rows at a window's edge taken for whole": ("_tiles", "key + shift + window + 1)", "last + shift + window + 1)", LEFT),
    "rows aligned at the top left": ("_tiles", "shift = n_queries - n_keys", "shift = 0", TALL),
    "masked tiles on the left skipped": ("_forward_kernel", "    if LEFT:\n", "    if False:\n", LEFT),
    "masked rows on the right skipped": ("_backward_kernel", "if WINDOWED or PACKED:  # and only these from the last", "if False:", LEFT),
    "one key past the end": ("_forward_kernel", "end[:, None], LEFT)", "1 + end[:, None], LEFT)", PLAIN),
    "one key past the end, backward": ("_backward_kernel", "end[:, None], LEFT)", "1 + end[:, None], LEFT)", SQUARE),
    "no mask for d_k": ("_backward_kernel", "tl.where(seen_T, weights_T, 0.0)", "weights_T", SQUARE),
    "no mask for d_q": ("_backward_kernel", "tl.where(seen, weights, 0.0)", "weights", SQUARE),
    # The softmax.
    "accumulator not rescaled": ("_forward_kernel", "accumulator = accumulator * rescale[:, None]", "accumulator = accumulator", PLAIN),
    "sum not rescaled": ("_forward_kernel", "total * rescale + tl.sum(weights, 1)", "total + tl.sum(weights, 1)", PLAIN),
    "sum of the last tile only": ("_forward_kernel", "total * rescale + tl.sum(weights, 1)", "tl.sum(weights, 1)", PLAIN),
    "maximum of the last tile only": ("_forward_kernel", "tl.maximum(maximum, tl.max(scores, 1))", "tl.max(scores, 1)", FALLING),
    "no maximum subtracted": ("_forward_kernel", "shift = new_maximum\n", "shift = tl.zeros_like(new_maximum)\n", FALLING),
    "a row that saw nothing makes NaN": ("_forward_kernel", "tl.where(new_maximum == float(\"-inf\"), 0.0, new_maximum)", "new_maximum", TALL),
    "no division by the sum": ("_forward_kernel", "accumulator / total[:, None]", "accumulator", PLAIN),
    "log-sum-exp without the maximum": ("_forward_kernel", "(maximum + tl.log2(total)) * LN2", "tl.log2(total) * LN2", PLAIN),
    "log-sum-exp in base 2": ("_forward_kernel", "(maximum + tl.log2(total)) * LN2", "maximum + tl.log2(total)", PLAIN),
    "log-sum-exp of an empty row is 0": ("_forward_kernel", "tl.where(saw_nothing, float(\"-inf\"), ", "tl.where(saw_nothing, 0.0, ", TALL),
    "natural scores in exp2": ("_tiles", "scores = products * (scale * LOG2E)", "scores = products * scale", SQUARE),
    "natural scores in exp2, whole tiles": ("_forward_kernel", "factor = scale * LOG2E", "factor = scale", PLAIN),
    "tanh without its two": ("_tiles", "1 - 2 / (1 + ", "1 - 1 / (1 + ", CAPPED),
    "soft-cap without its factor": ("_tiles", "(softcap * LOG2E) * tanh", "LOG2E * tanh", CAPPED),
    "query heads dealt to key heads in turn": ("_forward_kernel", "kv_head = head // GROUP", "kv_head = head % (n_heads // GROUP)", GROUPED),
    # The backward.
    "gradient of the log-sum-exp dropped": ("_backward_kernel", "total -= load_row_values(d_lse, sequence, rows, n_queries)", "total -= 0.0", PLAIN),
    "no row term in d_k": ("_backward_kernel", "(d_weights_T - row_delta[None, :])", "d_weights_T", PLAIN),
    "no row term in d_q": ("_backward_kernel", "(d_weights - row_delta[:, None])", "d_weights", PLAIN),
    "no slope of the soft-cap": ("_backward_kernel", "slope = 1 - ratio * ratio", "slope = 1 - 0 * ratio", CAPPED),
    "no scale in d_k": ("_backward_kernel", "d_k_sum * scale", "d_k_sum", PLAIN),
    "no scale in d_q": ("_backward_kernel", "d_q_sum * scale", "d_q_sum", PLAIN),
    "log-sum-exp taken for base 2": ("_backward_kernel", "load_row_values(lse, sequence, rows, n_queries) * LOG2E", "load_row_values(lse, sequence, rows, n_queries)", PLAIN),
    "first head of a group counted for all": ("_backward_kernel", "head = kv_head * GROUP + member", "head = kv_head * GROUP", GROUPED),
    "d_k of the first head of a group only": ("_backward_kernel", "for member in range(GROUP)", "for member in range(1)", GROUPED),
    "d_v from the scores' gradient": ("_backward_kernel", "tl.dot(weights_T.to(d_out_tile.dtype)", "tl.dot((weights_T * weights_T).to(d_out_tile.dtype)", PLAIN),
    # Decoding.
    "parts merged without weights": ("_decode_kernel", "tl.sum(outs * weights[:, None], 0) / total", "tl.sum(outs, 0) / n_parts", DECODE),
    "merged log-sum-exp without the maximum": ("_decode_kernel", "shift + tl.log2(total) * LN2", "tl.log2(total) * LN2", DECODE),
    "keys left over between parts": ("_decode_kernel", "tl.cdiv(tl.cdiv(high - low, n_parts), BLOCK_K) * BLOCK_K", "(high - low) // n_parts // BLOCK_K * BLOCK_K", DECODE),
    "heads and queries mixed in a tile": ("_decode_kernel", "member // n_queries, member % n_queries", "member % GROUP, member // GROUP % n_queries", DECODE),
}  # fmt: skip
