"""One process of a training run on several: `torchrun tests/support/training_worker.py RUN`.

Trains the controller of a small model with text round a frozen prior, on given batches. `--kill-at
N` ends every process after update N, as a machine's failure would.
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

from tests.support.training_parts import (
    SMALL,
    diffusion_loss,
    encode_text,
    encoders_of,
    new_trainer,
    small_v_preset,
    some_batches,
)
from venhancer.training import checkpoints

BATCH, STEPS, SAVED = 4, 4, 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--sharding", default="none")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--break-rank", type=int, help="whose batch is no number at update 2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    config = dataclasses.replace(
        SMALL,
        batch=BATCH,
        micro_batch=1,
        sharding=args.sharding,
        checkpoint_activations=True,
        trains_prior=False,
    )
    trainer = new_trainer(small_v_preset(), config, accelerator)
    found = checkpoints.find_checkpoints(args.run)
    if found:
        trainer.load(found[-1])
    encoders = dataclasses.replace(encoders_of(trainer.preset), text=encode_text)
    objective = dataclasses.replace(diffusion_loss(trainer), encoders=encoders)
    every = some_batches(BATCH * STEPS, dataclasses.replace(config, batch=1))
    every = [dataclasses.replace(batch, names=[f"clip {i}"]) for i, batch in enumerate(every)]
    every[1] = dataclasses.replace(every[1], skipped=("clip 1: too short",))
    every[3] = dataclasses.replace(every[3], skipped=("clip 3: too small",))
    if rank == args.break_rank:
        broken = (dataclasses.replace(b, scale=b.scale * float("nan")) for b in every[BATCH:])
        every = [*every[:BATCH], *broken]
    while trainer.step < STEPS:
        first = BATCH * trainer.step + rank * trainer.accumulation
        update, skipped = trainer.update(
            iter(every[first : first + trainer.accumulation]), objective
        )
        if accelerator.is_main_process:
            if skipped:
                (args.run / "skipped.json").write_text(json.dumps(skipped))
            with (args.run / "losses.jsonl").open("a") as log:
                log.write(json.dumps([update.step, update.loss, update.gradient_norm]) + "\n")
        if trainer.step == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.step == SAVED:
            trainer.save(args.run)
    trainer.export(args.run / "model.safetensors", trainer.preset)


if __name__ == "__main__":
    main()
