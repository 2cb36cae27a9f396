"""Train with one process and with two (DDP and FSDP2 over gloo) and print all losses as JSON. Run by test_two_processes; needs fork.

python tests/llmcore/train/two_processes.py FOLDER
"""

import faulthandler
import json
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
import torch.distributed.fsdp  # loaded before forking, once for all

from llmcore.train import TrainConfig, Trainer

LIMIT_S = 120
RUNS = [(mode, optimizer) for optimizer in ("adamw", "muon") for mode in ("one", "ddp", "fsdp")]


def make_config(folder: Path, mode: str, optimizer: str, total_steps: int = 6) -> TrainConfig:
    return TrainConfig(
        out_dir=str(folder / f"{mode}_{optimizer}"), train_data=str(folder / "text.txt"), vocab_size=270, context=12, batch_size=8,
        micro_batch=2, total_steps=total_steps, progress=False, device="cpu", data_order="packed", optimizer=optimizer, lr=1e-2,
        parallel="auto" if mode == "one" else mode, save_every=3, eval_every=6, eval_rows=5, keep_checkpoints=9,
        model={"width": 18, "n_heads": 3, "n_layers": 2, "ffn_width": 27},
    )  # fmt: skip


def fit(config: TrainConfig, out: Path) -> None:
    warnings.filterwarnings("ignore")
    result = Trainer(config).fit()
    if os.environ.get("RANK", "0") == "0":
        out.write_text(json.dumps([result.losses, [loss for _, loss in result.eval_losses]]))


def run(config: TrainConfig, out: Path, world: int) -> list:
    """Losses and evaluation losses of a run with that many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            place = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in place.items()})
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            try:
                fit(config, out)
                os._exit(0)
            except BaseException as error:
                print(f"{config.parallel} rank {rank}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:  # it would wait for its partner
                os.kill(other, signal.SIGKILL)
            raise SystemExit(f"a process of {out.stem} failed")
    return json.loads(out.read_text())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    (folder / "text.txt").write_text("Two processes see what one sees, and so they learn what it learns. " * 60)
    found = {}
    for mode, optimizer in RUNS:
        name = f"{mode} {optimizer}"
        config = make_config(folder, mode, optimizer)
        found[name] = run(config, folder / f"{mode}_{optimizer}.json", 1 if mode == "one" else 2)
    # Checkpoints of step 3, gone on from by another number of processes: shards by one and by two, whole tensors by two with shards.
    for origin, mode in (("fsdp_muon", "one"), ("fsdp_muon", "fsdp"), ("one_adamw", "fsdp")):
        start = str(folder / origin / "checkpoints" / "step_00000003")
        config = make_config(folder, mode, origin.partition("_")[2])
        config = config.replace(out_dir=str(folder / f"{mode}_from_{origin}"), resume=start)
        found[f"{mode} from {origin}"] = run(config, folder / f"{mode}_from_{origin}.json", 1 if mode == "one" else 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
