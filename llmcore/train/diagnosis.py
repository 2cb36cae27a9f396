"""Where a non-finite loss came from: the first parameter, module output or gradient that is not finite."""

import torch
from torch import Tensor, nn


class NonFiniteError(ArithmeticError):
    """The loss or the gradient stopped being a finite number; `step` and `tensor` say when and where."""

    def __init__(self, what: str, step: int, tensor: str, checkpoint: object) -> None:
        self.step = step
        self.tensor = tensor
        kept = f"the last good checkpoint is {str(checkpoint)!r}" if checkpoint else "no checkpoint had been saved"
        super().__init__(
            f"{what} at step {step} is not finite; the first bad tensor is {tensor}; {kept}; "
            "lower lr, lengthen the warm-up, or look at that batch"
        )


def is_finite(value: Tensor) -> bool:
    """Whether every element is a finite number (of a sharded tensor: every element here)."""
    value = value.to_local() if hasattr(value, "to_local") else value
    return bool(torch.isfinite(value).all())


def first_bad_parameter(model: nn.Module) -> str | None:
    """The first parameter or buffer with a non-finite element."""
    for name, parameter in model.named_parameters():
        if not is_finite(parameter.detach()):
            return f"parameter {name}"
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and not is_finite(buffer):
            return f"buffer {name}"
    return None


def first_bad_gradient(model: nn.Module) -> str | None:
    """The first parameter whose gradient has a non-finite element."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            return f"gradient of {name}"
    return None


def first_bad_output(objective: nn.Module, model: nn.Module, *inputs: object) -> str | None:
    """The first module of `model`, in the order of execution, whose output is not finite when `objective` runs on the inputs."""
    bad: list[str] = []

    def watch(name: str):
        def look(module: nn.Module, args: object, output: object) -> None:
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            tensors = [one for one in outputs if isinstance(one, Tensor) and one.is_floating_point()]
            if not all(is_finite(one.detach()) for one in tensors):
                bad.append(f"output of {name or 'the model'}")

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            objective(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None
