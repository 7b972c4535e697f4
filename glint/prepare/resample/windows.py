"""HU → the channels that an encoder sees."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def window_channels(volume_hu_ZYX: NDArray[Any], windows_hu: Sequence[tuple[float, float]]) -> NDArray[np.float32]:
    """HU as window channels: float32 (C, Z, Y, X), each window's (low, high) HU taken to [0, 1] and clipped there."""
    channels = np.empty((len(windows_hu), *volume_hu_ZYX.shape), np.float32)
    for channel, (low, high) in zip(channels, windows_hu, strict=True):
        np.subtract(volume_hu_ZYX, low, out=channel, casting="unsafe")
        channel /= high - low
        np.clip(channel, 0, 1, out=channel)
    return channels
