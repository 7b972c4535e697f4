"""From patches to voxels: upsampled logits, and the body in which chance is counted."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from glint.formats.model_image import Bits

Sizes = tuple[int, int, int]
Floats = NDArray[np.float32]


@cache
def linear_weights(num_in: int, num_out: int) -> Floats:
    """(num_out, num_in) weights of linear interpolation between cell centres; beyond the outer centres values are held.

    Cells are areas that cover the same length, as in `torch.nn.functional.interpolate(align_corners=False)`.
    """
    places = np.clip((np.arange(num_out) + 0.5) * num_in / num_out - 0.5, 0, num_in - 1)
    distance = np.abs(places[:, None] - np.arange(num_in))
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def upsample_logits(logits_FP: NDArray[np.floating], grid: Sizes, shape: Sizes) -> Floats:
    """(F, Z, Y, X) trilinear interpolation of patch logits, in token order (x runs fastest), to the voxels of `shape`.

    Logits, not probabilities, are interpolated: the threshold surface between two patches then lies where their
    evidence is equal. Source: METHOD, read-outs.
    """
    num = logits_FP.shape[0]
    coarse = np.asarray(logits_FP, dtype=np.float32).reshape(num, *grid)
    weights_Z, weights_Y, weights_X = (linear_weights(n, m) for n, m in zip(grid, shape, strict=True))
    along_z = np.matmul(weights_Z, coarse.reshape(num, grid[0], -1)).reshape(num, shape[0], grid[1], grid[2])
    along_y = np.matmul(weights_Y, along_z)
    return np.asarray(np.matmul(along_y.reshape(-1, grid[2]), weights_X.T).reshape(num, *shape))


def extend_over_padding(logits_FBP: NDArray[np.floating], valid_BP: NDArray[np.bool_], grid: Sizes) -> Floats:
    """Logits in which a patch of padding repeats the nearest patch of scan along each axis.

    What a model says of padding means nothing, but interpolation would carry it half a patch into the scan. Patches of
    scan form a box; a study without any is left as it is.
    """
    extended = np.array(logits_FBP, dtype=np.float32)
    for column, valid_P in enumerate(valid_BP):
        if not valid_P.any() or valid_P.all():
            continue
        indices = []
        for axis, size in enumerate(grid):
            held = np.flatnonzero(valid_P.reshape(grid).any(axis=tuple(k for k in range(3) if k != axis)))
            indices.append(np.clip(np.arange(size), held[0], held[-1]))
        coarse = extended[:, column].reshape(-1, *grid)
        z, y, x = np.ix_(*indices)
        extended[:, column] = coarse[:, z, y, x].reshape(len(extended), -1)
    return extended


def body_mask(volume_hu_ZYX: NDArray[np.int16], threshold_hu: float) -> NDArray[np.bool_]:
    """Voxels of the body: denser than the threshold, with what each axial slice encloses (lungs, bowel gas)."""
    from scipy.ndimage import binary_fill_holes

    return np.stack([binary_fill_holes(plane) for plane in volume_hu_ZYX > threshold_hu])


def patch_fractions(bits_ZYX: Bits, grid: Sizes, num_findings: int) -> Floats:
    """(F, P) share of every patch that each finding's mask fills."""
    edges = [size // patches for size, patches in zip(bits_ZYX.shape, grid, strict=True)]
    blocks = bits_ZYX.reshape(grid[0], edges[0], grid[1], edges[1], grid[2], edges[2])
    shares = [(blocks >> bit & 1).mean(axis=(1, 3, 5), dtype=np.float32).ravel() for bit in range(num_findings)]
    return np.stack(shares)
