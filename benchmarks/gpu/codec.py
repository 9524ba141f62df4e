"""The autoencoder at 720p: milliseconds a frame, in PyTorch's layout and channels last."""

from __future__ import annotations

import itertools
from functools import partial

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import FRAME, Setting, timed
from benchmarks.timing import four
from benchmarks.turns import make_room
from benchmarks.vae import LAYOUTS, WORKS, Task, codec_flop, prepare

STEP = "codec"
FRAMES = (1, 3)
SMALL_SIZE = (32, 32)
ROUNDS = 4


def run(setting: Setting, recorder: Recorder) -> None:
    for work, frames, layout in itertools.product(WORKS, FRAMES, LAYOUTS):
        if setting.is_small and (frames, layout) != (FRAMES[0], next(iter(LAYOUTS))):
            continue
        task = Task(
            work=work,
            layout=layout,
            size=SMALL_SIZE if setting.is_small else FRAME,
            frames=frames,
            dtype=setting.dtype,
            device=setting.device,
        )
        what = f"{work}, {frames} at a time, {layout}"
        recorder.attempt(what, partial(measure, task, setting))
        make_room(setting.device)


def measure(task: Task, setting: Setting) -> Found:
    """The fastest round, its rate, and the memory that it takes."""
    work, told = prepare(task)
    best = min(timed(work, task.device, setting.times(ROUNDS)))
    return {
        "ms_a_frame": four(1000 * best / task.frames),
        "tflops": round(codec_flop(task) / best / 1e12, 1),
        **told,
    }
