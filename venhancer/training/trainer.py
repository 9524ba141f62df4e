"""A model in training: its updates, the averaged weights, checkpoints and exported weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

from venhancer.config import Preset
from venhancer.diffusion.noise import seed_of
from venhancer.errors import TrainingError
from venhancer.model.denoiser import Denoiser, UNetDenoiser
from venhancer.model.layers import zero_init
from venhancer.training import checkpoints
from venhancer.training.checkpoints import Facts
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.logs import Update
from venhancer.training.objective import Objective
from venhancer.training.parallel import choose_learning, distribute, keeping_gradients, local
from venhancer.weights.checkpoint import save_tensors

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def initialise(model: Denoiser, config: TrainingConfig) -> None:
    """Initialise as in the paper: the controller's encoder and middle are copies of the prior's.

    Without a trained prior, zero convolutions have nothing to protect and would only block the
    hint at first. They are then initialised like other convolutions.
    """
    controller = model.controller
    controller.time_embedding.load_state_dict(model.time_embedding.state_dict())
    convs: list[nn.Module] = [controller.hint_conv]
    if isinstance(model, UNetDenoiser):
        model.controller.encoder.load_state_dict(model.unet.encoder.state_dict())
        model.controller.middle.load_state_dict(model.unet.middle.state_dict())
        convs += [*model.controller.zero_convs, model.controller.zero_conv_middle]
    if config.trains_prior:
        zero_init(model.unet.head)
        for conv in convs:
            assert isinstance(conv, nn.Conv2d)
            conv.reset_parameters()


class Trainer:
    """Weights, their average and AdamW's moments, on every device of a run.

    All randomness of an update is seeded by its number, so no state of generators is saved.
    """

    def __init__(
        self,
        model: Denoiser,
        preset: Preset,
        config: TrainingConfig,
        accelerator: Accelerator,
        *,
        workers: int = 0,
        frozen: str | None = None,
    ) -> None:
        """workers: processes that read clips, for each device

        frozen: SHA-256 of the file that the frozen weights came from
        """
        self.config, self.preset, self.accelerator = config, preset, accelerator
        self.workers, self.frozen = workers, frozen
        self.step = self.origin = 0
        self.accumulation = config.accumulation(accelerator.num_processes)
        choose_learning(model, trains_prior=config.trains_prior, trains_repair=config.trains_repair)
        self.network = distribute(model, config, accelerator)
        self.model = model
        self.weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.weights.items()}
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def learning_rate(self) -> float:
        """Compute the rate: linear warm-up, then half a cosine down to the configured share."""
        config = self.config
        if self.step < config.warmup_steps:
            return config.learning_rate * (self.step + 1) / config.warmup_steps
        span = max(1, config.steps - config.warmup_steps)
        done = min(1.0, (self.step - config.warmup_steps) / span)
        fall = 0.5 * (1 + math.cos(math.pi * done))
        end = config.final_learning_rate
        return config.learning_rate * (end + (1 - end) * fall)

    def update(
        self, batches: Iterator[Batch], objective: Objective
    ) -> tuple[Update, tuple[str, ...]]:
        """Take one step of AdamW; return its log entry, and files given up on any device.

        TrainingError, with unchanged weights, where the loss or a gradient is not finite.
        """
        start, waited = time.perf_counter(), 0.0
        rate = self._set_learning_rate()
        seen: list[tuple[Tensor, Batch]] = []
        for micro in range(self.accumulation):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            seen.append((self._accumulate(batch, objective, micro), batch))
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.config.clip_gradient)
        gradient_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        reasons = [reason for _, batch in seen for reason in batch.skipped]
        total = torch.stack([value for value, _ in seen]).mean()
        told = torch.stack([total, torch.full_like(total, len(reasons))])
        loss, news = self.accelerator.reduce(told, "mean").tolist()
        self._check(loss, gradient_norm, seen)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        seconds = time.perf_counter() - start
        made = sum(batch.seconds for _, batch in seen) / max(1, self.workers)
        update = Update(
            step=self.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=gradient_norm,
            seconds=seconds,
            data_seconds=waited,
            clips_per_second=self.config.batch / seconds,
            loader_clips_per_second=self.config.batch / max(made, 1e-9),
        )
        return update, tuple(self._gathered(reasons) if news else ())

    def _set_learning_rate(self) -> float:
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _accumulate(self, batch: Batch, objective: Objective, micro: int) -> Tensor:
        """Add the gradients of one micro-batch, and return its loss."""
        rank = self.accelerator.process_index
        number = rank * self.accumulation + micro
        seed = seed_of(self.config.seed, f"update {self.step}", number)
        generator = torch.Generator().manual_seed(seed)
        with keeping_gradients(self.network, micro == self.accumulation - 1):
            value = objective(self.network, batch.to(self.accelerator.device), generator)
            (value / self.accumulation).backward()
        return value.detach()

    def _check(self, loss: float, norm: float, seen: list[tuple[Tensor, Batch]]) -> None:
        """Raise TrainingError if not finite; all processes do, so that none waits for another."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self.optimizer.zero_grad(set_to_none=True)
        broken = [batch for value, batch in seen if not bool(value.isfinite())]
        names = [name for batch in broken or [b for _, b in seen] for name in batch.names]
        everywhere = self._gathered(names if broken or math.isfinite(loss) else [])
        what = "loss" if not math.isfinite(loss) else "gradient"
        raise TrainingError(
            f"update {self.step + 1}: the {what} is no number, for a batch of "
            f"{', '.join(dict.fromkeys(everywhere))}: the last checkpoint is kept; leave these "
            "clips out, or lower learning_rate, and go on with --resume"
        )

    def _gathered(self, names: list[str]) -> list[str]:
        """Collect the names of all processes, on every process."""
        if self.accelerator.num_processes == 1:
            return names
        parts: list[list[str]] = [[] for _ in range(self.accelerator.num_processes)]
        dist.all_gather_object(parts, names)
        return [name for part in parts for name in part]

    def agreed(self, decision: bool) -> bool:
        """Return the main process's decision on every process."""
        return bool(broadcast_object_list([decision])[0])

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        average = [local(tensor) for tensor in self.average.values()]
        weights = [local(weight.detach()) for weight in self.weights.values()]
        torch._foreach_lerp_(average, weights, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the averaged weights until the end of the `with` block."""
        trained = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            local(weight).copy_(local(values[name]))

    def facts(self) -> Facts:
        return Facts(
            step=self.step,
            preset=self.preset,
            config=self.config,
            streams=(self.accelerator.num_processes, self.workers, self.config.micro_batch),
            origin=self.origin,
            frozen=self.frozen,
        )

    def save(self, run: Path) -> None:
        """Save a checkpoint of this update in `run`."""
        checkpoints.save(
            run,
            self.network,
            self.optimizer,
            self.average,
            self.facts(),
            is_main=self.accelerator.is_main_process,
            wait=self.accelerator.wait_for_everyone,
        )

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint.

        With the same numbers of processes and workers, the sequence of clips continues; otherwise a
        new sequence begins here. WeightsError or OptionError if it belongs to another run.
        """
        found, wanted = checkpoints.read_facts(folder), self.facts()
        checkpoints.check_facts(found, wanted, folder)
        checkpoints.load(folder, self.network, self.optimizer, self.average)
        self.step = found.step
        self.origin = found.origin if found.streams == wanted.streams else found.step

    @property
    def position(self) -> int:
        """Number of micro-batches that this process has taken since `origin`."""
        return (self.step - self.origin) * self.accumulation

    def export(self, path: Path, preset: Preset) -> None:
        """Write the averaged weights as a checkpoint that `--weights` takes, in float16."""
        with self.averaged():
            tensors = get_model_state_dict(self.network, options=WHOLE)
            if self.accelerator.is_main_process:
                save_tensors(path, cast(dict[str, Tensor], tensors), preset)
