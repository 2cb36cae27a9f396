"""Every tuned launch of the Triton attention kernels compiled for Hopper (sm_90), no GPU needed: registers, spills, shared memory, instructions.

A row in a half type must use Hopper's matrix instructions (HGMMA) where its tile has the 64 rows that they take, and keep every value in registers
(no local memory); every row must fit 227 KiB of shared memory, and one with the copy engine (TMA) must contain its instruction. With every feature at
once (causal, window, documents, soft-cap, groups, padded width) spills are shown, not refused. Exits with 1 where a row breaks a rule.

    python benchmarks/cross_compile.py [--quick] [--write] [--kernel forward] [--width 64] [--jobs 2]

--write keeps the table as results/flash_attention_sm90.json and .md, beside what earlier runs found for launches that this one leaves out. Do not set
TRITON_INTERPRET.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmcore.attention.kernel_configs import Tiles
from llmcore.attention.kernel_table import TABLE

RESULTS = Path(__file__).resolve().parent / "results"
MAX_SHARED_BYTES = 227 * 1024
FEATURES = ("causal", "windowed", "packed", "capped", "group", "padded")
# dk and dv of 256-wide heads fill the registers; what spills there are addresses, a dozen loads a tile beside 68 matrix instructions.
SPILLS_LET_PASS = {"dkv": {256: 384}}


@dataclass(frozen=True)
class Launch:
    """One kernel at one width with one set of features."""

    kernel: str
    width: int
    dtype: str
    tiles: Tiles
    features: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        shape = f"{self.tiles.block_q}x{self.tiles.block_k}, {self.tiles.warps} warps, {self.tiles.stages} stages"
        return f"{self.kernel} {self.width} {self.dtype} {'+'.join(self.features) or 'full'} ({shape}{', TMA' * self.tiles.tma})"


@dataclass(frozen=True)
class Compiled:
    """What came out."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    hgmma: int
    """Hopper matrix instructions."""
    tma: int
    """Copy-engine loads."""
    cp_async: int
    """Asynchronous copies by pointers."""

    def complaints(self, launch: Launch) -> list[str]:
        """What breaks a rule. With every feature at once a few spilled values are let pass."""
        found = []
        half, block = (
            launch.dtype != "float32",
            launch.tiles.block_k if launch.kernel.startswith("dkv") else launch.tiles.block_q,
        )
        if half and self.hgmma == 0 and block >= 64:
            found.append("no HGMMA")
        let_pass = SPILLS_LET_PASS.get(launch.kernel, {}).get(launch.width, 0)
        if half and self.spilled_bytes > let_pass and len(launch.features) < 3:
            found.append(f"{self.spilled_bytes} bytes of local memory")
        if self.shared_bytes > MAX_SHARED_BYTES:
            found.append(f"{self.shared_bytes} bytes of shared memory")
        if launch.tiles.tma and self.tma == 0:
            found.append("no copy-engine load")
        return found


def table_launches() -> Iterator[Launch]:
    """The distinct launches of the table, causal where a row serves both masks; the larger half-type ones also with every feature at once."""
    seen = set()
    for (kernel, width, mask, _, dtype, engine), values in TABLE.items():
        tiles = Tiles(*values, tma=engine == "tma")
        grouped = ("group",) if kernel == "dkv_grouped" else ()
        every = tuple(name for name in FEATURES if (kernel, name) != ("decode", "packed"))
        for features in ((() if mask == "full" else ("causal",)) + grouped, every):
            if features == every and (
                dtype == "float32" or width < 64 or (engine == "pointers" and kernel != "decode")
            ):
                continue
            launch = Launch(kernel, width, "bfloat16" if dtype == "half" else "float32", tiles, features)
            if launch not in seen:
                seen.add(launch)
                yield launch


def source_of(launch: Launch) -> tuple[object, dict[str, object]]:
    """Triton's description of the kernel with its arguments' types, and launch options."""
    from triton.compiler import ASTSource

    from llmcore.attention import _backward_kernel, _decode_kernel, _forward_kernel

    kernel = {
        "forward": _forward_kernel.forward_kernel,
        "dkv": _backward_kernel.dkv_kernel,
        "dkv_grouped": _backward_kernel.dkv_kernel,
        "dq": _backward_kernel.dq_kernel,
        "decode": _decode_kernel.part_kernel,
    }[launch.kernel]
    tiles, features = launch.tiles, launch.features
    item = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[launch.dtype]
    width = launch.width * 3 // 4 if "padded" in features else launch.width
    block_q = tiles.block_q
    constants = {
        "GROUP": 4 if "group" in features else 1, "D": width, "DV": width, "BLOCK_D": launch.width, "BLOCK_DV": launch.width, "BLOCK_Q": block_q, "BLOCK_K": tiles.block_k,
        "CAUSAL": "causal" in features, "WINDOWED": "windowed" in features, "PACKED": "packed" in features,
        "CAPPED": "capped" in features, "TMA": tiles.tma,
    }  # fmt: skip
    rows = {"q": block_q, "k": tiles.block_k, "v": tiles.block_k, "d_out": block_q}
    signature: dict[str, object] = {}
    attributes: dict[tuple[int, ...], list] = {}
    values: dict[tuple[int, ...], object] = {}
    aligned = [["tt.divisibility", 16]]
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[place,] = "constexpr", constants[name]
        elif name in rows:
            tensor = f"tensordesc<{item}[1, 1, {rows[name]}, {launch.width}]>"
            signature[name] = tensor if tiles.tma and launch.kernel != "decode" else f"*{item}"
            attributes[place,] = [] if tiles.tma and launch.kernel != "decode" else aligned
        elif name.endswith("strides"):
            signature[name] = ("i32", "i32", "i32")
            attributes.update({(place, part): aligned for part in range(3)})
        elif name in ("doc_starts", "doc_ends"):
            signature[name] = "*i32" if "packed" in features else "constexpr"
            if "packed" not in features:
                values[place,] = None
        elif name in ("lse", "delta", "part_out", "part_lse"):
            signature[name], attributes[place,] = "*fp32", aligned
        elif name in ("out", "d_q", "d_k", "d_v"):
            signature[name], attributes[place,] = f"*{item}", aligned
        elif name in ("scale", "softcap"):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if name == "n_queries" and launch.kernel != "decode":
                attributes[place,] = aligned
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
    return ASTSource(kernel, signature, values, {place: what for place, what in attributes.items() if what}), options


def compile_launch(launch: Launch) -> Compiled:
    """Compile for sm_90 and read the machine code.

    Raises: RuntimeError when TRITON_INTERPRET is set, in which case there is nothing to compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    from llmcore.attention._launch import INTERPRETED

    if INTERPRETED:
        raise RuntimeError("kernels were loaded for the interpreter; unset TRITON_INTERPRET and start again")
    source, options = source_of(launch)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
        sass = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    registers = int(re.search(r"REG:(\d+)", usage.stdout)[1])
    # Triton reserves no stack: what ptxas puts there are spills.
    stack = int(re.search(r"STACK:(\d+)", usage.stdout)[1])
    return Compiled(
        registers=registers,
        spilled_bytes=stack,
        shared_bytes=built.metadata.shared,
        hgmma=len(re.findall(r"\bHGMMA\b", sass)),
        tma=len(re.findall(r"\bUTMALDG\b", sass)),
        cp_async=len(re.findall(r"\bLDGSTS\b", sass)),
    )


def stored() -> dict[Launch, Compiled]:
    """The table as it was last written; empty where there is none."""
    path = RESULTS / "flash_attention_sm90.json"
    if not path.exists():
        return {}
    found = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        launch = Launch(row["kernel"], row["width"], row["dtype"], Tiles(**row["tiles"]), tuple(row["features"]))
        found[launch] = Compiled(**{name: row[name] for name in Compiled.__dataclass_fields__})
    return found


def with_stored(rows: list[tuple[Launch, Compiled]]) -> list[tuple[Launch, Compiled]]:
    """The rows of this run, and where it left launches out, those stored before; all in the table's order."""
    known = {**stored(), **dict(rows)}
    return [(launch, known[launch]) for launch in table_launches() if launch in known]


def versions() -> dict[str, str]:
    """Triton's version and its assembler's."""
    import triton

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    said = subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    return {"triton": triton.__version__, "ptxas": re.search(r"V([\d.]+)", said)[1]}


def as_markdown(rows: list[tuple[Launch, Compiled]]) -> str:
    """The table for people."""
    found = versions()
    lines = [
        "# Attention kernels compiled for sm_90",
        "",
        f"By `python benchmarks/cross_compile.py --write`, Triton {found['triton']}, ptxas {found['ptxas']}; no GPU involved.",
        "Every feature at once: causal, window, documents, soft-cap, grouped heads, width padded from three quarters.",
        "",
        "| kernel | width | dtype | features | tile | warps | stages | TMA | registers | spilled B | shared KiB | HGMMA | TMA loads | cp.async |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for launch, got in rows:
        tiles = launch.tiles
        features = "every" if len(launch.features) > 2 else "+".join(launch.features) or "full"
        lines.append(
            f"| {launch.kernel} | {launch.width} | {launch.dtype} | {features} | {tiles.block_q}x{tiles.block_k} | {tiles.warps} | {tiles.stages} "
            f"| {'yes' if tiles.tma else 'no'} | {got.registers} | {got.spilled_bytes} | {got.shared_bytes / 1024:.0f} | {got.hgmma} | {got.tma} | {got.cp_async} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="widths 64 and 128, half precision, one feature set")
    parser.add_argument("--write", action="store_true", help="keep the table under results/")
    parser.add_argument("--kernel", help="only this one: forward, dkv, dkv_grouped, dq or decode")
    parser.add_argument("--width", type=int, help="only this block width: 16, 32, 64, 128 or 256")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    launches = [
        launch
        for launch in table_launches()
        if options.kernel in (None, launch.kernel) and options.width in (None, launch.width)
    ]
    if options.quick:
        launches = [
            one for one in launches if one.width in (64, 128) and one.dtype != "float32" and one.features == ("causal",)
        ]
    broken = False
    rows = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for launch, got in zip(launches, pool.map(compile_launch, launches)):
            complaints = got.complaints(launch)
            broken |= bool(complaints)
            rows.append((launch, got))
            print(
                f"{launch.name}: {got.registers} registers, {got.spilled_bytes} B spilled, {got.shared_bytes // 1024} KiB shared, {got.hgmma} HGMMA, "
                f"{got.tma} TMA, {got.cp_async} cp.async{'   <- ' + '; '.join(complaints) if complaints else ''}",
                flush=True,
            )
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        rows = with_stored(rows)
        kept = [{**asdict(launch), **asdict(got)} for launch, got in rows]
        (RESULTS / "flash_attention_sm90.json").write_text(
            json.dumps({**versions(), "rows": kept}, indent=1) + "\n", encoding="utf-8"
        )
        (RESULTS / "flash_attention_sm90.md").write_text(as_markdown(rows), encoding="utf-8")
    sys.exit(broken)


if __name__ == "__main__":
    main()
