"""Measure one flat body against a prior with a controller beside it, at equal work.

Both train on the same samples of a pool, for the same number of updates, and are judged on a
held-out pool: the loss and the PSNR of clean samples enlarged four times. `one body` is what NANO
has. `beside` splits the blocks: a prior that sees the noisy latents, and a controller that sees the
hint too and adds to the prior through a 1x1 convolution after each block.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.machine import describe_run
from venhancer.config import NANO, UNetConfig
from venhancer.diffusion.schedule import noise_schedule
from venhancer.model.denoiser import FlatDenoiser
from venhancer.model.flat import FlatBlock
from venhancer.model.layers import zero_init
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.data.pool import Pool, PoolBatches
from venhancer.training.encoders import lapped_encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.pool_validation import PoolValidation
from venhancer.training.trainer import Trainer, initialise
from venhancer.training.validation import Cell

JUDGED = Cell(stride=1, scale=4, noise_level=0)


class BesideBody(nn.Module):
    """A prior of half the blocks, and as many of a controller; as `FlatBody` is called."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, half = config.base_channels, config.blocks_per_level // 2
        self.input = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.controller_input = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(FlatBlock(config) for _ in range(half))
        self.controller_blocks = nn.ModuleList(FlatBlock(config) for _ in range(half))
        self.zero_convs = nn.ModuleList(zero_init(nn.Conv2d(width, width, 1)) for _ in range(half))
        for conv in self.zero_convs:  # no prior of this shape has anything that zeros would protect
            assert isinstance(conv, nn.Conv2d)
            conv.reset_parameters()
        self.head = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, hint: Tensor) -> Tensor:
        first = own = self.input(x)
        seen = self.controller_input(x) + hint
        layers = zip(self.blocks, self.controller_blocks, self.zero_convs, strict=True)
        for block, controller, conv in layers:
            seen = controller(seen, embedding)
            own = block(own, embedding) + conv(seen)
        return self.head(own + first)


def build(name: str, config: TrainingConfig) -> FlatDenoiser:
    """A fresh network of the kind, begun as training begins it."""
    torch.manual_seed(config.seed)
    model = FlatDenoiser(NANO.model)
    initialise(model, config)
    if name == "beside":
        body: Any = BesideBody(NANO.model.unet)
        zero_init(body.head)
        model.unet = body
    return model


def measure(name: str, pool: Pool, held_out: Pool, config: TrainingConfig) -> dict[str, Any]:
    """Train and judge one kind."""
    model = build(name, config)
    trainer = Trainer(model, NANO, config, Accelerator(cpu=True))
    encoders = lapped_encoders(NANO.model.latent_scale)
    sigmas = noise_schedule().float()
    loss = DiffusionLoss(NANO.model, config, encoders, sigmas)
    batches = iter(PoolBatches(pool, config))
    started = time.process_time()
    for _ in range(config.steps):
        trainer.update(batches, loss)
    seconds = time.process_time() - started
    with trainer.averaged():
        scores = PoolValidation(held_out, NANO, config, encoders).measure(trainer.network)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
        "loss": scores[JUDGED].loss,
        "psnr": scores[JUDGED].psnr,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flat_bodies", description=__doc__)
    add = parser.add_argument
    add("--pool", type=Path, default=Path("data/pool"), help="what `make pool` made")
    add("--held-out", type=Path, default=Path("data/pool_validation"), help="of other clips")
    add("--updates", type=int, default=400)
    add("--out", type=Path, help="results as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    changes = {"steps": args.updates, "perceptual_weight": 0.0, "precision": "float32"}
    config = TrainingConfig.from_dict(
        {name: getattr(NANO_TRAINING, name) for name in TrainingConfig.__dataclass_fields__}
        | changes
    )
    pool, held_out = Pool(args.pool), Pool(args.held_out)
    results = {name: measure(name, pool, held_out, config) for name in ("one body", "beside")}
    report = describe_run("benchmarks.flat_bodies") | {"updates": args.updates, "results": results}
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
