"""Metrics of a video: distance to the truth, sharpness and temporal stability.

Frames are uint8 RGB arrays, f H W 3; luma is full-range BT.601, 0 to 255.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from venhancer.errors import WeightsError
from venhancer.training import perceptual

Frames = NDArray[np.uint8]
Plane = NDArray[np.float64]

WINDOW_PIXELS: Final = 11
WINDOW_SIGMA: Final = 1.5
PATCH_PIXELS: Final = 4
VMAF_MODEL: Final = "vmaf_v0.6.1"


class MetricError(Exception):
    """A metric that cannot be measured: frames that do not match, a missing file or tool."""


def luma(frame: Frames) -> Plane:
    """Full-range BT.601 luma: H W 3 uint8 -> H W, 0 to 255."""
    return frame.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def psnr(output: Frames, reference: Frames) -> float:
    """Luma PSNR of one frame in dB; infinite for equal frames."""
    error = np.mean((luma(output) - luma(reference)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def local_mean(plane: Plane) -> Plane:
    """Compute the Gaussian 11x11 average, sigma 1.5, where the window fits: H W -> H-10 W-10."""
    kernel = cv2.getGaussianKernel(WINDOW_PIXELS, WINDOW_SIGMA)
    border = WINDOW_PIXELS // 2
    whole = cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)
    return np.asarray(whole[border:-border, border:-border], dtype=np.float64)


def ssim(output: Frames, reference: Frames) -> float:
    """Luma structural similarity of one frame, 1 for equal frames."""
    x, y = luma(output), luma(reference)
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(likeness.mean())


# --- steadiness ---------------------------------------------------------------------------------


def flow(first: Frames, second: Frames) -> NDArray[np.float32]:
    """Compute DIS optical flow from the first frame to the second, in pixels: H W 2."""
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(search.calc(gray[0], gray[1], None), dtype=np.float32)  # type: ignore[call-overload]


def fetch_along(image: NDArray[Any], motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sample `image` along the motion of every pixel: out(x) = image(x + motion(x))."""
    rows, columns = np.indices(motion.shape[:2], dtype=np.float32)
    warped = cv2.remap(
        image.astype(np.float32), columns + motion[..., 0], rows + motion[..., 1], cv2.INTER_LINEAR
    )
    return np.asarray(warped, dtype=np.float32)


def visible(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the pixels of the first frame that are inside the second and not hidden there: H W."""
    height, width = forward.shape[:2]
    rows, columns = np.indices((height, width), dtype=np.float32)
    x, y = columns + forward[..., 0], rows + forward[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back = fetch_along(backward, forward)
    there_and_back = ((forward + back) ** 2).sum(axis=-1)
    allowance = 0.01 * ((forward**2).sum(axis=-1) + (back**2).sum(axis=-1)) + 0.5
    return np.asarray(inside & (there_and_back < allowance), dtype=np.bool_)


def warping_errors(videos: dict[str, Frames], reference: Frames) -> dict[str, float]:
    """Mean absolute luma change of each video along the motion of the reference.

    Occluded pixels are left out. Lower is steadier, but blur lowers it too: compare with the
    value of the reference itself. The flow is computed once for all videos.
    """
    totals = dict.fromkeys(videos, 0.0)
    for index in range(len(reference) - 1):
        now, then = reference[index], reference[index + 1]
        forward = flow(now, then)
        seen = visible(forward, flow(then, now))
        for name, frames in videos.items():
            moved = fetch_along(luma(frames[index + 1]), forward)
            change = np.abs(moved - luma(frames[index]))[seen]
            totals[name] += float(change.mean()) if change.size else 0.0
    return {name: total / max(len(reference) - 1, 1) for name, total in totals.items()}


def warping_error(output: Frames, reference: Frames) -> float:
    """Return `warping_errors` of one video."""
    return warping_errors({"output": output}, reference)["output"]


def frame_difference_error(output: Frames, reference: Frames) -> float:
    """Mean absolute difference of the frame-to-frame luma changes of two videos, 0 to 255."""
    made = np.diff(np.stack([luma(frame) for frame in output]), axis=0)
    true = np.diff(np.stack([luma(frame) for frame in reference]), axis=0)
    return float(np.abs(made - true).mean())


# --- texture ------------------------------------------------------------------------------------


def band_spectra(steps: Plane, band_rows: int = 32) -> Plane:
    """Power spectra of the mean absolute step per column, band by band: H W -> bands W/2+1.

    The steps of a patch grid differ in sign from patch to patch, so absolute values are used. W is
    cut to a multiple of the patch, so that its period is one exact bin.
    """
    width = steps.shape[1] // PATCH_PIXELS * PATCH_PIXELS
    bands = steps.shape[0] // band_rows
    sizes = np.abs(steps[: bands * band_rows, :width])
    profile = sizes.reshape(bands, band_rows, width).mean(axis=1)
    profile -= profile.mean(axis=1, keepdims=True)
    return np.asarray(np.abs(np.fft.rfft(profile * np.hanning(width), axis=1)) ** 2)


def patch_grid_energy(frame: Frames, neighbours: int = 8) -> float:
    """Energy of a frame's gradient at the 4-pixel patch period relative to nearby periods.

    About 1 for a true frame (0.6 to 1.5 for single frames). A grid of 4x4 patches that differ by a
    few grey levels gives 2 to 100, more on smoother pictures. Plain 4x interpolation gives high
    values too, since its gradient follows the input's pixels. Horizontal and vertical gradients
    count alike; frames of at least 96x96.
    """
    y = luma(frame)
    at_period, nearby = [], []
    for plane in (y, y.T):
        spectra = band_spectra(np.diff(plane, axis=1))
        middle = spectra.shape[1] // 2  # the width is even, so this is a quarter cycle a pixel
        around = np.r_[middle - 2 - neighbours : middle - 2, middle + 3 : middle + 3 + neighbours]
        at_period.append(spectra[:, middle].mean())
        nearby.append(spectra[:, around].mean())
    return float(sum(at_period) / max(sum(nearby), 1e-12))


def high_frequency_energy(frame: Frames, cutoff: float) -> float:
    """Luma energy at spatial frequencies above `cutoff` cycles a pixel."""
    y = luma(frame)
    window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))
    power = np.abs(np.fft.rfft2((y - y.mean()) * window)) ** 2
    rows, columns = np.fft.fftfreq(y.shape[0]), np.fft.rfftfreq(y.shape[1])
    return float(power[np.hypot(rows[:, None], columns) > cutoff].sum())


def high_frequency_ratio(output: Frames, reference: Frames, cutoff: float = 0.125) -> float:
    """Fine detail of one frame relative to the true frame: 1 is as much, 0 is blur.

    The default cutoff is the finest detail that an input 4x smaller can carry.
    """
    true = high_frequency_energy(reference, cutoff)
    return high_frequency_energy(output, cutoff) / max(true, 1e-12)


# --- LPIPS --------------------------------------------------------------------------------------


class Lpips:
    """LPIPS 0.1 on AlexNet features, from the weights that `scripts.data` fetches."""

    def __init__(self, weights: Path) -> None:
        try:
            self.network = perceptual.Lpips(weights)
        except WeightsError as error:
            raise MetricError(str(error)) from error

    @torch.inference_mode()
    def __call__(self, output: Frames, reference: Frames) -> float:
        """Perceptual distance of two frames, H W 3; 0 for equal frames."""
        made, true = (
            torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
            for frame in (output, reference)
        )
        return float(self.network(made, true))


# --- VMAF ---------------------------------------------------------------------------------------


def ffmpeg_binary() -> str:
    """The ffmpeg that imageio-ffmpeg carries (it has libvmaf, a distribution's may not)."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise MetricError("imageio-ffmpeg is missing: install the `bench` extra") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def raw_input(frames: Frames, name: str) -> list[str]:
    """ffmpeg arguments that read a file of raw RGB frames."""
    height, width = frames.shape[1:3]
    size = f"{width}x{height}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", "24", "-i", name]


def vmaf(output: Frames, reference: Frames) -> float:
    """VMAF 0.6.1 of a video, mean over its frames, 0 to 100 (equal videos give about 99)."""
    if output.shape != reference.shape:
        raise MetricError(f"videos differ: {output.shape} and {reference.shape}")
    planes = "format=yuv420p,setpts=N"
    graph = (
        f"[0:v]{planes}[made];[1:v]{planes}[true];"
        f"[made][true]libvmaf=model=version={VMAF_MODEL}:log_fmt=json:log_path=log.json"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        output.tofile(folder / "made.rgb")
        reference.tofile(folder / "true.rgb")
        command = [ffmpeg_binary(), "-v", "error", "-nostdin"]
        command += raw_input(output, "made.rgb") + raw_input(reference, "true.rgb")
        command += ["-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise MetricError(f"ffmpeg could not measure VMAF: {done.stderr.strip()[-200:]}")
        log = json.loads((folder / "log.json").read_text())
    return float(log["pooled_metrics"]["vmaf"]["mean"])
