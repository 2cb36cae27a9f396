"""Launches with a driver that only names a target: arguments are bound and kernels compiled as on a GPU, and nothing is run."""

import torch
from flash_cases import Case


class NamesHopper:
    """What Triton asks a driver for before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compiled_by_launching(one: Case) -> list[str]:
    """Names of the kernels that a forward and a backward of this request bind and compile."""
    from triton.runtime import JITFunction, driver

    from llmcore.attention import _launch
    from llmcore.attention.kernel_configs import use_tiles
    from llmcore.attention.kernels import document_bounds

    names, run = [], JITFunction.run

    def compile_only(self, *arguments, warmup, **named):
        run(self, *arguments, warmup=True, **named)
        names.append(self.__name__)

    dtype = getattr(torch, one.dtype)
    q = torch.zeros(one.batch, one.t_q, one.heads, one.d, dtype=dtype).transpose(1, 2)
    k = v = torch.zeros(one.batch, one.kv_heads, one.t_k or one.t_q, one.d, dtype=dtype)
    documents = (None, None) if one.borders is None else document_bounds(torch.tensor(one.borders), one.t_q)
    options = dict(one.options)
    plan = _launch.Plan(
        options.get("causal", False), one.d**-0.5, options.get("window"), options.get("softcap"), *documents
    )
    driver.set_active(NamesHopper())  # for good: this process has no device, and compiling by itself names its target
    JITFunction.run = compile_only
    try:
        with use_tiles(one.tiles):
            out, lse = _launch.forward(q, k, v, plan)
            if "part_kernel" not in names:
                _launch.backward(out, lse, q, k, v, out, lse, plan)
    finally:
        JITFunction.run = run
    return names
