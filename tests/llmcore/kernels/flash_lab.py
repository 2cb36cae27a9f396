"""What runs in the interpreter's process: measurements, mutants, training, checks of the operator. Imports the kernels only there."""

import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from flash_cases import Case, bound, measure

from llmcore import attention as package
from llmcore.attention import attention, flash_attention, prefer

KERNEL_FILES = ("_tiles", "_forward_kernel", "_backward_kernel", "_decode_kernel")


def measure_mutant(file: str, old: str, new: str, one: Case) -> dict[str, float] | str:
    """`measure` with one piece of a kernel file replaced; the name of the error where it does not even run."""
    from llmcore.attention import _launch

    folder = Path(package.__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        name = f"mutant_{Path(temporary).name}"
        copy = Path(temporary) / name
        copy.mkdir()
        for each in KERNEL_FILES:
            source = (folder / f"{each}.py").read_text(encoding="utf-8")
            if each == file:
                if source.count(old) < 1:
                    return "stale"
                source = source.replace(old, new)
            (copy / f"{each}.py").write_text(
                source.replace("from llmcore.attention.", f"from {name}."), encoding="utf-8"
            )
        sys.path.insert(0, temporary)
        originals = {each: getattr(_launch, each) for each in KERNEL_FILES[1:]}
        try:
            for each in originals:
                setattr(_launch, each, importlib.import_module(f"{name}.{each}"))
            return measure(one, enough=10 * bound(one))
        except Exception as error:
            return type(error).__name__
        finally:
            for each, original in originals.items():
                setattr(_launch, each, original)
            sys.path.remove(temporary)


def bfloat16_products() -> tuple[bool, bool]:
    """Whether `tl.dot` of two bfloat16 tiles of small whole numbers is exact: as installed, and mended."""
    from probe_kernels import product_is_exact

    raw = product_is_exact()
    with mended_bfloat16():
        return raw, product_is_exact()


def dealt_tiles(*arguments: object) -> list[tuple[int, int]]:
    """`probe_kernels.dealt` in this process."""
    from probe_kernels import dealt

    return dealt(*arguments)


class mended_bfloat16:
    """Within it the interpreter multiplies bfloat16 tiles in float32 and rounds to the nearest even; it does neither by itself."""

    def __enter__(self) -> None:
        import triton.language as tl
        from triton.runtime import interpreter

        from llmcore.attention import _launch

        builder = interpreter.InterpreterBuilder
        self.builder, self.originals, self.launch = builder, (builder.create_dot, builder.create_fp_trunc), _launch
        plain_dot, plain_trunc = self.originals

        def widened(handle):
            if handle.dtype.scalar != tl.bfloat16:
                return handle
            return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

        def dot(self, a, b, *rest):
            return plain_dot(self, widened(a), widened(b), *rest)

        def truncate(self, source, dtype):
            if dtype.scalar != tl.bfloat16 or source.dtype.scalar != tl.float32:
                return plain_trunc(self, source, dtype)
            bits = np.ascontiguousarray(source.data, np.float32).view(np.uint32)
            return interpreter.TensorHandle(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), tl.bfloat16)

        builder.create_dot, builder.create_fp_trunc = dot, truncate
        _launch.interpreter_has_bfloat16 = True

    def __exit__(self, *_) -> None:
        self.builder.create_dot, self.builder.create_fp_trunc = self.originals
        self.launch.interpreter_has_bfloat16 = False


def measure_mended(one: Case) -> dict[str, float]:
    """`measure` with bfloat16 all the way through the kernels."""
    with mended_bfloat16():
        return measure(one)


def train(backend: str, steps: int, folder: str, device: str = "cpu", **changes: object) -> list[float]:
    """The losses of a tiny model trained by the trainer, attention by `backend`."""
    from llmcore.data import WindowSource
    from llmcore.model import ModelConfig, Transformer
    from llmcore.train import TrainConfig, Trainer

    shape = {"width": 32, "n_heads": 2, "n_layers": 1, "vocab_size": 64, "context": 24, **changes}
    model = Transformer(ModelConfig(**shape), torch.Generator().manual_seed(0))
    tokens = (np.arange(2000) ** 2 % 61).astype(np.uint16)
    config = TrainConfig(
        out_dir=f"{folder}/{backend}", total_steps=steps, batch_size=2, context=24, lr=1e-2, warmup_steps=1, progress=False,
        device=device, resume="never",
    )  # fmt: skip
    trainer = Trainer(config, model, source=WindowSource(tokens, 2, 24))
    with prefer(backend):
        trainer.fit()
    return list(trainer.losses)


def compiled_equals_eager() -> list[float]:
    """Largest differences, out, lse and gradient, of a fully compiled graph with documents; with `prefer`, inside a function."""
    q = torch.randn(1, 2, 20, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    borders = torch.tensor([0, 7, 20])

    def both(x: torch.Tensor, cu_seqlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return flash_attention(x * 2, x, x, causal=True, cu_seqlens=cu_seqlens, backend="triton", return_lse=True)

    graph = torch.compile(both, fullgraph=True, backend="aot_eager")
    pairs = list(zip(graph(q, borders), both(q, borders)))
    pairs.append(tuple(torch.autograd.grad(sum(x.sum() for x in f(q, borders)), q)[0] for f in (graph, both)))
    with prefer("triton"):
        chosen = torch.compile(lambda x: attention(x, x, x, causal=True), fullgraph=True, backend="aot_eager")
        pairs.append((chosen(q), attention(q, q, q, causal=True, backend="triton")))
    return [(have - want).abs().max().item() for have, want in pairs]


def operator_check() -> dict[str, str]:
    """torch's own tests of the operator's schema, fake version and autograd, with documents and without."""
    q = torch.randn(1, 2, 20, 16, requires_grad=True)
    k, v = (torch.randn(1, 1, 20, 16, requires_grad=True) for _ in range(2))
    starts = torch.zeros(1, 20, dtype=torch.int32)
    import llmcore.attention.kernels  # noqa: F401  (registers the operator)

    found = torch.library.opcheck(
        torch.ops.llmcore.flash_attention.default, (q, k, v, None, None, True, 0.25, None, None)
    )
    with_documents = (q, k, v, starts, starts + 20, False, 0.25, 5, 1.0)
    return found | {
        f"documents {name}": said
        for name, said in torch.library.opcheck(torch.ops.llmcore.flash_attention.default, with_documents).items()
    }


def twice_equal() -> bool:
    """Whether two backwards of one forward agree to the last bit."""
    q = torch.randn(1, 4, 40, 16, requires_grad=True)
    k = torch.randn(1, 2, 40, 16, requires_grad=True)
    out = attention(q, k, k, causal=True, backend="triton")
    first, second = (torch.autograd.grad(out.sum(), (q, k), retain_graph=True) for _ in range(2))
    return all(torch.equal(x, y) for x, y in zip(first, second))


def refusal(change: dict[str, object]) -> str:
    """The message of the ValueError for a request with changed shapes, dtype or options."""
    made = {"q": (1, 2, 4, 16), "k": (1, 2, 4, 16), "v": (1, 2, 4, 16), **change}
    dtype = getattr(torch, made.pop("dtype", "float32"))
    tensors = {name: torch.zeros(made.pop(name), dtype=dtype) for name in "qkv"}
    if "cu_seqlens" in made:
        made["cu_seqlens"] = torch.tensor(made["cu_seqlens"])
    try:
        flash_attention(**tensors, **made, backend="triton")
    except ValueError as error:
        return str(error)
    return ""


def answers() -> dict[str, object]:
    """Small facts about requests at the edge."""
    from llmcore.attention import _launch, kernels

    q = torch.randn(1, 2, 4, 16, requires_grad=True)
    none = torch.zeros(1, 2, 0, 16)
    out, lse = flash_attention(q, none, none, backend="triton", return_lse=True)
    empty_gradient = torch.autograd.grad(out.sum(), q)[0]
    doubled = attention(q, q, q, backend="triton")
    (first,) = torch.autograd.grad(doubled.sum(), q, create_graph=True)
    try:
        torch.autograd.grad(first.sum(), q)
        second = "no error"
    except RuntimeError as error:
        second = str(error)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attention(q, q, q, backend="triton").dtype
    return {
        "no keys": bool(out.eq(0).all() and lse.eq(-torch.inf).all() and empty_gradient.eq(0).all()),
        "no queries": tuple(attention(none, q.detach(), q.detach(), backend="triton").shape),
        "second derivative": second,
        "autocast": str(cast),
        "available": kernels.is_available(),
        "layout": attention(q, q, q, backend="triton").transpose(1, 2).is_contiguous(),
        "parts": [
            _launch.count_parts(*numbers) for numbers in ((8, 16384, 128, 132), (1, 100, 64, 132), (512, 9999, 64, 132))
        ],
    }
