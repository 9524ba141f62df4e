"""One process of a training run on several, for tests: `torchrun tests/training_worker.py ...`.

Trains a small model on given batches; `--kill-at N` ends every process after update N, as a lost
machine would.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
from pathlib import Path

import torch
from accelerate import Accelerator

from tests.clips import small_preset
from tests.training_parts import SMALL, diffusion_loss, new_trainer, some_batches
from venhancer.training import checkpoints


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--sharding", default="none")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--save-at", type=int, default=2)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    config = dataclasses.replace(
        SMALL, batch=4, micro_batch=1, sharding=args.sharding, checkpoint_activations=True
    )
    trainer = new_trainer(small_preset(), config, accelerator)
    if args.resume:
        trainer.load(checkpoints.find_checkpoints(args.run)[-1])
    every = some_batches(4 * args.steps, dataclasses.replace(config, batch=1))
    objective = diffusion_loss(trainer)
    while trainer.step < args.steps:
        first = 4 * trainer.step + rank * trainer.accumulation
        update, _ = trainer.update(iter(every[first : first + trainer.accumulation]), objective)
        if accelerator.is_main_process:
            with (args.run / "losses.jsonl").open("a") as log:
                log.write(json.dumps([update.step, update.loss, update.gradient_norm]) + "\n")
        if trainer.step == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.step == args.save_at:
            trainer.save(args.run)
    trainer.export(args.run / f"model-{world}.safetensors", small_preset())


if __name__ == "__main__":
    main()
