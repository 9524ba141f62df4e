"""Fetch clips that video models made, and what measures them without a reference: 106 MB.

Not part of `make data`: the clips show what others made by such models, some of it people; they
are for measuring on this machine only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scripts.data import Package, Pick, provide_all

# by their names here: the generator, as the package's own workflow names it
CLIPS = {
    "svd": "txt_to_image_to_video-1",
    "wan-t2v": "text_to_video_wan-1",
    "wan-i2v": "image_to_video_wan-1",
    "wan2.2-t2v": "video_wan2_2_14B_t2v-1",
    "ltxv-i2v": "ltxv_image_to_video-1",
    "hunyuan-i2v": "video_hunyuan_video_1.5_720p_i2v-1",
}

PACKAGES = (
    Package(
        "pip",
        "comfyui-workflow-templates-media-video",
        "0.3.101",
        "6270fd61c8c3931b6f0031abac7d4c90ced624de6c7918bff85b89e6c3d7493c",
        tuple(
            Pick(f"**/templates/{file}.webp", f"generated/{name}.webp")
            for name, file in CLIPS.items()
        ),
    ),
    Package(
        "pip",
        "brisque",
        "0.2.0",
        "56f1839e5179a294d0598d63b2ee488fcbedeac7cee3e32c7c8d06c30a6269e1",
        (
            Pick("brisque/models/svm.txt", "metrics/brisque_svm.txt"),
            Pick("brisque/models/normalize.pickle", "metrics/brisque_ranges.pickle"),
        ),
    ),
    Package(
        "pip",
        "mmagic",
        "1.2.0",
        "efa91041097c40e452dd2037b596a5633a6a512447c28a71c970c24aca04039c",
        (Pick("**/evaluation/metrics/niqe_pris_params.npz", "metrics/niqe.npz"),),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.data_generated", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder (default: data)")
    return provide_all(PACKAGES, parser.parse_args(argv).out)


if __name__ == "__main__":
    raise SystemExit(main())
