"""Where a map points: its highest point, its contrast, its boxes.

Axes are any number D; boxes are half-open (start, stop) per axis, in the order of the array's axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glint.metrics.segmentation import iou_score


def pointing_score(map_V: NDArray[np.floating], mask_V: NDArray[np.bool_]) -> float:
    """1 if the highest value of the map lies in the mask, 0 if not; NaN for an empty mask or an empty map.

    Several equal maxima count by the share that lies in the mask, so that a constant map scores by chance and not by the
    order of the voxels. Any shape; both arrays alike.

    Raises:
        ValueError: the shapes differ, or the map holds NaN.
    """
    if map_V.shape != mask_V.shape:
        raise ValueError(f"map {map_V.shape} and mask {mask_V.shape} differ in shape")
    if not mask_V.any():
        return float("nan")
    highest = map_V.max()
    if np.isnan(highest):
        raise ValueError("the map holds NaN")
    return float(mask_V[map_V == highest].mean())


def random_pointing_score(mask_V: NDArray[np.bool_], body_V: NDArray[np.bool_]) -> float:
    """Chance that a random voxel of the body lies in the mask; NaN for an empty mask or no body."""
    if not mask_V.any() or not body_V.any():
        return float("nan")
    return float((mask_V & body_V).sum() / body_V.sum())


def box_pointing_scores(
    map_V: NDArray[np.floating], boxes_KD2: NDArray[np.integer], *, tolerance: float = 0.0
) -> NDArray[np.float64]:
    """(K,) for each box, 1 if the map's highest point lies in it; equal maxima count by their share inside.

    The highest of the K is the any-box score; the list itself, pooled over images, the per-box count (VECL).

    Args:
        map_V: Any number of axes D.
        boxes_KD2: Half-open (start, stop) of each axis, in pixels.
        tolerance: Pixels by which a point may miss a box, measured as the distance to it. VECL allows 20; a target of a
            nodule's size grows 2.7-fold by it, so such numbers do not compare with strict ones.

    Raises:
        ValueError: the boxes have another number of axes, or the map holds NaN.
    """
    boxes = np.asarray(boxes_KD2, dtype=np.float64).reshape(-1, map_V.ndim, 2)
    highest = map_V.max() if map_V.size else np.nan
    if np.isnan(highest):
        raise ValueError("the map holds NaN or nothing")
    points_ND = np.argwhere(map_V == highest)
    below_KND = np.maximum(boxes[:, None, :, 0] - points_ND, points_ND - (boxes[:, None, :, 1] - 1))
    distance_KN = np.sqrt((np.maximum(below_KND, 0.0) ** 2).sum(axis=2))
    return np.asarray((distance_KN <= tolerance).mean(axis=1), dtype=np.float64)


def contrast_to_noise_score(map_V: NDArray[np.floating], mask_V: NDArray[np.bool_], *, absolute: bool = True) -> float:
    """|mean inside - mean outside| / sqrt(variance inside + variance outside); NaN where a side is empty.

    A constant map has 0. `absolute=False` keeps the sign: a map that avoids the finding is then negative.
    Source: CNR of BioViL (Boecking et al. 2022), there with the absolute value.
    """
    inside, outside = map_V[mask_V].astype(np.float64), map_V[~mask_V].astype(np.float64)
    if not inside.size or not outside.size:
        return float("nan")
    gap = inside.mean() - outside.mean()
    noise = float(np.sqrt(inside.var() + outside.var()))
    score = gap / noise if noise > 0 else 0.0 if gap == 0 else float("inf") * np.sign(gap)
    return float(abs(score) if absolute else score)


def mean_iou_score(
    map_V: NDArray[np.floating], mask_V: NDArray[np.bool_], thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5)
) -> float:
    """Mean over thresholds of the IoU of `map > threshold` with the mask; NaN for an empty mask.

    Source: mIoU of BioViL, thresholds 0.1 to 0.5 of a map that was scaled to [-1, 1] there; here of a probability.
    """
    if not mask_V.any():
        return float("nan")
    return float(np.mean([iou_score(map_V > threshold, mask_V) for threshold in thresholds]))


def largest_boxes(mask_V: NDArray[np.bool_], num: int) -> NDArray[np.int64]:
    """(K, D, 2) half-open boxes round the largest connected parts of a mask, at most `num`, the largest first.

    Parts touch by faces, edges or corners.
    """
    from scipy.ndimage import find_objects, generate_binary_structure, label

    labelled, count = label(mask_V, generate_binary_structure(mask_V.ndim, mask_V.ndim))
    if not count:
        return np.zeros((0, mask_V.ndim, 2), np.int64)
    sizes = np.bincount(labelled.ravel())[1:]
    order = np.argsort(-sizes, kind="stable")[:num]
    found = find_objects(labelled)
    return np.array([[(one.start, one.stop) for one in found[part]] for part in order], dtype=np.int64)


def box_iou_scores(first_ND2: NDArray[np.integer], second_MD2: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N, M) intersection over union of half-open boxes; 0 where both are empty."""
    first, second = np.asarray(first_ND2, np.float64)[:, None], np.asarray(second_MD2, np.float64)[None]
    overlap = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    shared = np.prod(np.maximum(overlap, 0.0), axis=-1)
    total = np.prod(first[..., 1] - first[..., 0], axis=-1) + np.prod(second[..., 1] - second[..., 0], axis=-1) - shared
    return np.asarray(np.divide(shared, total, out=np.zeros_like(shared), where=total > 0))
