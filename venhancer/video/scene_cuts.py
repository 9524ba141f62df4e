"""Find the frames that begin a new scene, from pictures of 32 x 32 pixels.

FFmpeg's `scdet` is not used: PyAV exposes its scores only since 18.1, and it counts each flash as
two cuts. PySceneDetect was not tried against this detector, which was made before OpenCV was
needed anyway.

The distance of two frames is 1 - their correlation, so fading, flicker and dark scenes matter
little. A frame begins a scene if two conditions hold:
- The three frames from it on are all far from the three before it. A flash fails this: the frame
  after it is like the frame before it.
- These distances are at least twice those of any two neighbours on either side. Fast motion fails
  this: it changes all frames alike, or every second one where frames are repeated.
"""

from array import array

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

LEAST_DISTANCE = 0.25  # in 10000 frames of a film, cuts had 0.33 or more, the rest 0.06 or less
MOTION_FACTOR = 2.0  # there, 100 of 102 cuts had 2.6 or more; all but fades to black, 1.6 or less
REACH = 3  # frames on either side of a cut; a shorter scene is a flash

_PAST = 2 * REACH - 1  # the largest distance, in frames, from before a cut to after it
_NEWEST_FIRST = (np.arange(_PAST)[:, None] - np.arange(1, _PAST + 1)) % _PAST
_SIDE = 32
_MEAN = np.full(_SIDE**2, 1 / _SIDE**2, np.float32)  # ten times as fast as ndarray.mean
_GREY = 128.0
_LEVEL = 1.0  # contrast that counts as none (noise of a flat picture), in 8-bit levels


class CutFinder:
    """Finder of cuts in the frames of a video, added in order.

    It keeps five small pictures, and 20 bytes for each frame.
    """

    def __init__(self) -> None:
        self._scalers = VideoReformatter(), VideoReformatter()
        self._past = np.zeros((_PAST, 3 * _SIDE**2 + 1), np.float32)
        self._distances = array("f")
        self._frames = 0

    def add(self, frame: av.VideoFrame) -> None:
        """Compare a frame, of any size and pixel format, with the five before it."""
        signature = _signature(_shrink(frame, *self._scalers))
        newest = self._frames % _PAST
        similar = self._past @ signature
        self._distances.extend(1 - similar[_NEWEST_FIRST[newest]])
        self._past[newest] = signature
        self._frames += 1

    def cuts(self) -> tuple[int, ...]:
        """Find the indices of the frames so far that begin a new scene: increasing, never 0."""
        return find_cuts(np.array(self._distances, np.float32).reshape(-1, _PAST))


def find_cuts(distances: NDArray[np.float32]) -> tuple[int, ...]:
    """Find the indices of frames that begin a scene, increasing, never 0.

    distances: frames x 5, 0 to 2: of frame k from frames k - 1 to k - 5. Distances from frames
    before the first are ignored.
    """
    far = np.flatnonzero(distances[:, 0] > LEAST_DISTANCE)
    return tuple(int(k) for k in far if k > 0 and _is_cut(distances, int(k)))


def _is_cut(distances: NDArray[np.float32], k: int) -> bool:
    last = len(distances) - 1
    before, after = range(max(k - REACH, 0), k), range(k, min(k + REACH, last + 1))
    beside = [*range(max(k - REACH, 1), k), *range(k + 1, min(k + REACH, last) + 1)]
    if len(beside) < 2:
        return False  # in two or three frames, a cut cannot be told from motion
    across = min(distances[b, b - a - 1] for a in before for b in after)
    within = max(distances[b, 0] for b in beside)
    return bool(across > LEAST_DISTANCE and across > MOTION_FACTOR * within)


def _shrink(
    frame: av.VideoFrame, fast: VideoReformatter, exact: VideoReformatter
) -> NDArray[np.float32]:
    """Shrink to 3 x 1024 (Y U V), 0 to 255; in two steps, as one takes 4 times as long at 720p."""
    sampled = fast.reformat(
        frame, 2 * _SIDE, 2 * _SIDE, format="yuv444p", interpolation=Interpolation.FAST_BILINEAR
    )
    small = exact.reformat(sampled, _SIDE, _SIDE, interpolation=Interpolation.AREA)
    return small.to_ndarray().reshape(3, -1).astype(np.float32)


def _signature(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make a vector of length 1: 3 x 1024 -> 3073.

    Luma is centred on its mean; chroma on the midpoint of its mean and grey.
    """
    centre = planes @ _MEAN
    centre[1:] = (centre[1:] + _GREY) / 2
    vector = np.empty(planes.size + 1, np.float32)
    np.subtract(planes, centre[:, None], out=vector[:-1].reshape(planes.shape))
    vector[-1] = _LEVEL * _SIDE
    vector /= np.sqrt(vector @ vector)
    return vector
