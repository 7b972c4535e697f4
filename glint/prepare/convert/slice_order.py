"""Do the pixels follow each other as the positions say? Catches what no header tells.

Headers may place a slice where it was not taken: positions exchanged between two files, or a slice of another body
under this one's name. Neighbours in a body look more alike than slices further apart; where they don't, something
stands in the wrong place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.formats.dicom_series import SliceHeader

SEEN_HU = (-1024, 400)  # beyond it metal and padding outweigh anatomy
BLOCKS = 32  # per in-plane edge: means over a block calm noise below anatomy's change from slice to slice
WINDOW_SLICES = 8  # exchanged slices further apart show as two strangers; longer runs meet a body's own symmetry
END_SLICES = 3  # a run at the end of the stack has one neighbour to tell by: only short ones are judged
END_DOUBT = 0.85  # one neighbour less to tell by: sound stacks reach 1.28 within END_SLICES of an end, 1.12 elsewhere
LEAST_HU = 0.25  # a difference below is none: air around the body, rounding
CLEARLY_IN_ORDER = 0.9


class CoarseSlices:
    """Block means of slices in HU, taken one by one: `means_ZYX` float32, about 32 × 32 values a slice."""

    def __init__(self, shape_zyx: Sequence[int]) -> None:
        count, rows, columns = shape_zyx
        self.edge = max(1, min(rows, columns) // BLOCKS)
        self.means_ZYX = np.empty((count, rows // self.edge, columns // self.edge), np.float32)
        self._ones = np.ones(self.edge, np.float32)
        self._seen = {np.dtype(kind): self._scratch(kind) for kind in (np.int16, np.float32)}

    def _scratch(self, kind: type[np.generic]) -> NDArray[Any]:
        _, rows, columns = self.means_ZYX.shape
        return np.empty((rows, self.edge, columns * self.edge), kind)

    def add(self, place: int, slice_YX: NDArray[Any]) -> None:
        """Take the means of the slice at `place`."""
        means_YX = self.means_ZYX[place]
        # 16 bits hold the sum of a block's rows up to an edge of 31 pixels, and are summed many at a time.
        narrow = slice_YX.dtype == np.int16 and self.edge * max(map(abs, SEEN_HU)) < 2**15
        seen = self._seen[np.dtype(np.int16 if narrow else np.float32)]
        rows, edge, columns = seen.shape
        np.clip(slice_YX[: rows * edge, :columns].reshape(seen.shape), *SEEN_HU, out=seen)
        sums = seen.sum(axis=1, dtype=seen.dtype)  # first along the columns, whose neighbours lie together in memory
        # Then a product with ones, exact up to 2^24 and several times as fast as a sum over so short an axis.
        np.matmul(sums.reshape(*means_YX.shape, edge).astype(np.float32), self._ones, out=means_YX)
        means_YX /= edge * edge


def coarse_slices(volume_ZYX: NDArray[Any]) -> NDArray[np.float32]:
    """Block means of each slice of a volume, see `CoarseSlices`."""
    coarse = CoarseSlices(volume_ZYX.shape)
    for place, slice_YX in enumerate(volume_ZYX):
        coarse.add(place, slice_YX)
    return coarse.means_ZYX


def slice_distances(coarse_ZYX: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean absolute difference (HU) of slices no further apart than the window, shape (Z, Z), upper half."""
    count = len(coarse_ZYX)
    distances = np.zeros((count, count))
    for apart in range(1, min(WINDOW_SLICES, count - 1) + 1):
        difference = np.abs(coarse_ZYX[apart:] - coarse_ZYX[:-apart]).mean(axis=(1, 2))
        distances[np.arange(count - apart), np.arange(apart, count)] = difference
    return distances


def strangeness(distances_ZZ: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each slice: how much less its neighbours are like it than like each other; below 1 in a body, shape (Z,).

    The first and last slice have one neighbour; the distance to it is compared with four times the next one.
    """
    step = np.diagonal(distances_ZZ, 1)
    across = np.maximum(np.diagonal(distances_ZZ, 2), LEAST_HU)
    inner = np.minimum(step[:-1], step[1:]) / across
    first, last = step[0] / max(4 * step[1:3].max(), LEAST_HU), step[-1] / max(4 * step[-3:-1].max(), LEAST_HU)
    found = np.array([first, *inner, last])
    near_end = np.minimum(np.arange(len(found)), np.arange(len(found))[::-1]) < END_SLICES
    return np.where(near_end, found * END_DOUBT, found)


def reversal_gain(distances_ZZ: NDArray[np.float64]) -> NDArray[np.float64]:
    """For runs of slices i..j: distances to their outer neighbours as they stand, over those after a reversal.

    The smaller of the two ends' ratios, so that a jump between breath-holds (one end) is no sign; at the first or
    last slice there is one end. Above 1 the run fits better turned around, as after an exchange of slices i and j.
    Shape (Z, Z), 0 where no run is.
    """
    count = len(distances_ZZ)
    floor = np.maximum(distances_ZZ, LEAST_HU)
    gain = np.zeros((count, count))
    for length in range(2, min(WINDOW_SLICES, count - 1) + 1):
        first = np.arange(count - length + 1)
        last = first + length - 1
        before, after = first - 1, np.minimum(last + 1, count - 1)
        left = np.where(before >= 0, floor[before, first] / floor[before, last], np.inf)
        right = np.where(last + 1 < count, floor[last, after] / floor[first, after], np.inf)
        at_end = (before < 0) | (last + 1 == count)
        told = np.where(at_end, np.minimum(left, right) * END_DOUBT, np.minimum(left, right))
        gain[first, last] = np.where(at_end & (length > END_SLICES), 0, told)
    return gain


def mirror_gain(coarse_ZYX: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each slice: its distance to a neighbour over that of its mirror image, flipped or turned, shape (Z,).

    The smaller of the two neighbours' ratios and the largest of the three mirror images; about 1 for a symmetric
    body, below 1 for others, above 1 where the slice was mirrored. One neighbour is enough to tell.
    """
    pairs = np.full((2, len(coarse_ZYX)), np.inf)
    for row, (own, neighbour) in zip(pairs, ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])), strict=True):
        mine, other = coarse_ZYX[own], coarse_ZYX[neighbour]
        mirrored = [
            np.abs(turned - other).mean(axis=(1, 2)) for turned in (mine[:, ::-1], mine[..., ::-1], mine[:, ::-1, ::-1])
        ]
        row[own] = np.abs(mine - other).mean(axis=(1, 2)) / np.maximum(np.minimum.reduce(mirrored), LEAST_HU)
    return np.asarray(pairs.min(axis=0))


def _out_of_order(numbers: Sequence[int]) -> int:
    """How many slices break the rise (or fall) of the instance numbers; 0 where numbers say nothing of order."""
    steps = np.diff(numbers)
    against = min(int((steps < 0).sum()), int((steps > 0).sum()))
    return against if 0 < against <= max(2, len(numbers) // 10) else 0


def require_slices_in_order(
    headers: Sequence[SliceHeader],
    volume_ZYX: NDArray[Any],
    coarse_ZYX: NDArray[np.float32],
    config: ConvertConfig,
) -> None:
    """Refuse a stack in which a slice stands at another's place, comes twice, or is of another body.

    `coarse_ZYX` are the block means of its slices (`CoarseSlices`). Where few instance numbers run against the positions, one of the two was exchanged: the pixels have to side with
    the positions clearly. Numbers that jump about say nothing.

    Raises:
        Quarantine: `repeated_slice`, `strange_slice` or `slices_exchanged`.
    """
    count = len(volume_ZYX)
    for place in np.flatnonzero((coarse_ZYX[1:] == coarse_ZYX[:-1]).all(axis=(1, 2))):
        if np.ptp(volume_ZYX[place]) > 0 and np.array_equal(volume_ZYX[place], volume_ZYX[place + 1]):
            raise Quarantine(
                "repeated_slice",
                f"slices {place + 1} and {place + 2} of {count} have the same pixels at two positions: send it again",
            )
    if count < 4:
        return
    distances = slice_distances(coarse_ZYX)
    strange = strangeness(distances)
    gain = reversal_gain(distances)
    worst = int(np.argmax(strange))
    first, last = (int(place) for place in np.unravel_index(np.argmax(gain), gain.shape))
    if gain[first, last] > config.max_slice_surprise:
        raise Quarantine(
            "slices_exchanged",
            f"slices {first + 1} to {last + 1} of {count} fit their neighbours better the other way round: "
            "positions and pixels contradict each other, send the series again",
        )
    if strange[worst] > config.max_slice_surprise:
        raise Quarantine(
            "strange_slice",
            f"slice {worst + 1} of {count} is unlike both neighbours, which are like each other: another scan's, "
            "misplaced or damaged; send the series again",
        )
    mirrored = mirror_gain(coarse_ZYX)
    if mirrored.max() > config.max_slice_surprise:
        raise Quarantine(
            "strange_slice",
            f"slice {int(mirrored.argmax()) + 1} of {count} fits its neighbours better mirrored: send the series again",
        )
    against = _out_of_order([header.instance_number for header in headers])
    if against and gain.max() > CLEARLY_IN_ORDER:
        raise Quarantine(
            "slices_exchanged",
            f"instance numbers run against the positions {against} times and the pixels don't tell which is right",
        )
