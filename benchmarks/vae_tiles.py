"""How far a decoded frame in tiles is from the untiled one, whether borders show, what it saves.

A frame of the sample clip, through Stable Diffusion's VAE: the one that --vae or VENHANCER_VAE
names, else random weights, whose errors say how settings compare, not how a picture looks. Each
setting runs in a process of its own. Seams are the change across a border over the changes beside
it, over the same of the untiled frame: 1 is none. Random weights make it scatter, so it is told how
far it goes where there is no border.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.machine import ROOT, describe_run, shown

if TYPE_CHECKING:  # a process's peak starts at its parent's: this one stays without torch
    from torch import Tensor

    from venhancer.encoders.autoencoder import AutoencoderCodec
    from venhancer.encoders.tiled_autoencoder import Grid

CLIP = ROOT / "assets" / "butterfly.mp4"
WIDTH, HEIGHT = 384, 256
TILES = (16, 24, 32)  # latent positions each way
PARTS = (8, 4, 2)  # an eighth, a quarter, a half of a tile overlaps
CHILD = "--child"


def codec(source: str | None) -> AutoencoderCodec:
    """A VAE of Stable Diffusion 2.1's sizes."""
    import torch

    from venhancer.encoders.autoencoder import AutoencoderCodec, load_codec
    from venhancer.planning.activations import autoencoder

    if source:
        return load_codec(source)
    torch.manual_seed(0)
    return AutoencoderCodec(autoencoder().eval().requires_grad_(False))


def picture() -> Tensor:
    """The sample clip's first frame, enlarged: 1 3 H W in [-1, 1]."""
    import av
    import torch

    with av.open(CLIP) as container:
        frame = next(container.decode(video=0))
        pixels = frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray()
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reference(source: str | None, folder: Path) -> None:
    """The latents that all settings decode, and the untiled frame of them."""
    import torch

    vae = codec(source)
    with torch.inference_mode():
        mean, _ = vae.moments(picture())
        torch.save(mean, folder / "latents")
        torch.save(vae.pixels(mean), folder / "frame")


def setting(tile: int, overlap: int, source: str | None, folder: Path) -> dict[str, Any]:
    """Decode, then encode, in such tiles; tile 0 is the whole frame."""
    import torch

    from venhancer.config import VAE_STRIDE
    from venhancer.encoders.tiled_autoencoder import in_tiles
    from venhancer.spans import cover

    vae, frame = codec(source), picture()
    latents, whole = torch.load(folder / "latents"), torch.load(folder / "frame")
    rows, columns = (cover(n, tile or n, (tile or n) - overlap) for n in latents.shape[-2:])
    before, start = peak_bytes(), time.perf_counter()
    with torch.inference_mode():
        [out] = in_tiles(lambda z: [vae.pixels(z)], latents, (rows, columns), (1, VAE_STRIDE))
        seconds, taken = time.perf_counter() - start, peak_bytes() - before
        mean, _ = in_tiles(vae.moments, frame, (rows, columns), (VAE_STRIDE, 1))
    return {
        "tile": tile,
        "overlap": overlap,
        "tiles": len(rows) * len(columns),
        "decode_seconds": round(seconds, 1),
        "decode_mib": round(taken / 2**20),
        "decode_psnr": psnr(out, whole, peak=2.0),
        "encode_psnr": psnr(mean, latents, peak=float(latents.max() - latents.min())),
        "seams": seams(out, whole, (rows, columns)),
    }


def psnr(out: Tensor, whole: Tensor, peak: float) -> float | None:
    """None where they are equal."""
    error = float((out - whole).square().mean())
    return round(10 * math.log10(peak**2 / error), 2) if error else None


def seams(out: Tensor, whole: Tensor, cover: Grid) -> dict[str, float] | None:
    """Mean and largest ratio over all borders; None where there is none.

    `elsewhere`: what one in twenty of all rows and columns exceeds, borders or not.
    """
    from venhancer.config import VAE_STRIDE
    from venhancer.pipeline.seams import borders

    found, anywhere = [], []
    for axis, spans in zip((-2, -1), cover, strict=True):
        places = [VAE_STRIDE * border for border in borders(spans)]
        inside = range(VAE_STRIDE, out.shape[axis] - VAE_STRIDE)
        ratios = {p: jump(out, axis, p) / jump(whole, axis, p) for p in inside}
        found += [ratios[place] for place in places]
        anywhere += list(ratios.values())
    if not found:
        return None
    return {
        "mean": round(fmean(found), 3),
        "most": round(max(found), 3),
        "elsewhere": round(quantiles(anywhere, n=20)[-1], 3),
    }


def jump(pixels: Tensor, axis: int, place: int) -> float:
    """Mean change from the row or column before `place` to it, over those beside."""
    from venhancer.pipeline.seams import BESIDE

    steps = pixels.diff(dim=axis).abs()
    across, *near = (float(steps.select(axis, place + k - 1).mean()) for k in (0, *BESIDE))
    return across / fmean(near)


def run(name: str, source: str | None, folder: Path) -> dict[str, Any]:
    """`reference`, or `TILE/OVERLAP`, in a process of its own."""
    extra = ["--vae", source] if source else []
    command = [sys.executable, "-m", "benchmarks.vae_tiles", CHILD, name, str(folder), *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(name: str, source: str | None, folder: Path) -> dict[str, Any]:
    if name == "reference":
        reference(source, folder)
        return {}
    tile, overlap = name.split("/")
    return setting(int(tile), int(overlap), source, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", default=os.environ.get("VENHANCER_VAE"))
    parser.add_argument("--out", type=Path)
    parser.add_argument(CHILD, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], args.vae, Path(args.child[1]))))
        return
    weights = shown(args.vae) if args.vae else "random, of Stable Diffusion 2.1's sizes"
    print(f"weights: {weights}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run("reference", args.vae, Path(folder))
        for tile, parts in ((0, 1), *product(TILES, PARTS)):
            rows.append(run(f"{tile}/{tile // parts}", args.vae, Path(folder)))
            print(rows[-1])
    result = {
        **describe_run("benchmarks.vae_tiles"),
        "weights": weights,
        "frame": f"{WIDTH}x{HEIGHT}",
        "settings": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
