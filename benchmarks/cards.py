"""The commands that fill the rows of a card."""

from __future__ import annotations

from collections.abc import Iterator

TITLE = "Commands for each card"
ABOUT = """\
They write to [results/](results/); `python -m benchmarks.report` then fills the rows. The engines
are of the released model at random weights, on which speed does not depend; `tensorrt-rtx` does not
know the H200. On an L4 (24 GB) the ways of an evaluation do not fit beside each other, hence one at
a time, and not the release's path."""
BUILDERS = {
    "A100": ("tensorrt-rtx", "tensorrt"),
    "L4": ("tensorrt-rtx", "tensorrt"),
    "H200": ("tensorrt",),
}
WAYS = ("eager", "compiled", "graph")  # of `denoise_step`
RANDOM = "bundles/random"
STEP = "python -m benchmarks.denoise_step --device cuda"
SHAPE = "--preset released --size 1280x720 --window 16"


def commands(card: str) -> Iterator[str]:
    """In order; the last of them with engines beside PyTorch."""
    name = card.lower()
    yield from one_at_a_time(name) if card == "L4" else ("make bench-gpu",)
    yield f"python -m benchmarks.random_models {RANDOM}"
    for builder in BUILDERS[card]:
        bundle = f"bundles/released-{name}-{builder}"
        given = f"{SHAPE} --weights {RANDOM}/random.safetensors"
        yield (
            f"VENHANCER_VAE={RANDOM} VENHANCER_TEXT_ENCODER={RANDOM} venhancer-export "
            f"build-engines {given} --gpu {name} --builder {builder} -o {bundle}"
        )
        beside = "--variant graph" if card == "L4" else "--baseline pytorch"
        file = out("denoise_step", f"{name}_{builder}")
        yield f"{STEP} {given} {beside} --bundle {bundle} {file}"


def one_at_a_time(name: str) -> Iterator[str]:
    """What of `make bench-gpu` fits a small card."""
    yield f"python -m benchmarks.ceiling --device cuda {out('ceiling', name)}"
    for way in WAYS:
        yield f"{STEP} {SHAPE} --variant {way} {out('denoise_step', f'{name}_{way}')}"
    for module, options in (
        ("candidates", ""),
        ("vae", " --size 1280x720 --frames 1 --frames 3"),
        ("end_to_end", " --preset released"),
    ):
        yield f"python -m benchmarks.{module} --device cuda{options} {out(module, name)}"


def out(module: str, name: str) -> str:
    return f"--out benchmarks/results/{module}_cuda_{name}.json"


def section() -> str:
    listed = (
        f"{card}:\n\n" + "\n".join(f"    {command}" for command in commands(card))
        for card in BUILDERS
    )
    return f"## {TITLE}\n\n{ABOUT}\n\n" + "\n\n".join(listed)
