"""Log-probabilities that a model gives to tokens and to whole responses, from its logits.

Trainers use `llmcore.align.logprobs`, which never makes the logits of a prompt.

Taught in: 07_dpo_grpo.
"""

# Shapes: B batch, T time, V vocabulary.
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The tensor in at least float32; whole numbers and bools become float32, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def token_logprobs(logits: Float[Tensor, "B T V"], input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
    """Log-probability in nats of each next token: entry t is of token t + 1, predicted at position t.

    >>> token_logprobs(torch.zeros(1, 3, 4), torch.tensor([[3, 1, 0]])).exp().tolist()
    [[0.25, 0.25]]

    Raises: ValueError when input_ids is not logits without its last dim.
    """
    if logits.ndim != 3 or logits.shape[:2] != input_ids.shape:
        raise ValueError(
            f"logits (B, T, V) and input_ids (B, T) must fit, got {tuple(logits.shape)} and {tuple(input_ids.shape)}"
        )
    targets = input_ids[:, 1:]
    if targets.numel() == 0:
        return wide(logits[:, :-1]).sum(dim=-1)
    loss = F.cross_entropy(wide(logits[:, :-1]).flatten(0, 1), targets.flatten().long(), reduction="none")
    return -loss.view(targets.shape)


def sequence_logprob(
    logits: Float[Tensor, "B T V"], input_ids: Int[Tensor, "B T"], response_mask: Shaped[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """Log-probability in nats of each response: the sum over the tokens where the mask, aligned with input_ids, is true.

    Token 0 is predicted by nothing and does not count. A response without tokens gives 0.

    >>> ids, mask = torch.tensor([[3, 1, 0]]), torch.tensor([[0, 0, 1]])
    >>> sequence_logprob(torch.zeros(1, 3, 4), ids, mask).exp().tolist()
    [0.25]

    Raises: ValueError when the mask does not have the shape of input_ids.
    """
    if response_mask.shape != input_ids.shape:
        raise ValueError(
            f"response_mask must have the shape of input_ids {tuple(input_ids.shape)}, got {tuple(response_mask.shape)}; "
            "it marks the response's own tokens, not the positions that predict them"
        )
    logp = token_logprobs(logits, input_ids)
    return torch.where(response_mask[:, 1:].bool(), logp, 0).sum(dim=1)
