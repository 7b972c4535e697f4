"""A trained arm as stage 10 uses it: the model, and what it takes to feed it."""

import math
from dataclasses import dataclass
from pathlib import Path

from glint.core.errors import InputError
from glint.evaluation.zero_shot import AsksVolumes, Grid


@dataclass(frozen=True, kw_only=True)
class LoadedArm:
    """`grid` patches and `volume_zyx` voxels along (z, y, x); `windows` HU of each channel; `patch_weight` c_p."""

    model: AsksVolumes
    grid: Grid
    volume_zyx: tuple[int, int, int]
    windows: tuple[tuple[float, float], ...]
    patch_weight: float


def load_arm(folder: Path) -> LoadedArm:
    """The model of a checkpoint folder, in eval mode.

    Raises:
        InputError: no checkpoint, or one that does not say how its input was made.
    """
    from glint.formats.checkpoint import read_checkpoint
    from glint.model.pretrained import load_glint

    recipe = read_checkpoint(folder).config.get("input", {})
    try:
        windows = tuple((float(low), float(high)) for low, high in recipe["windows"])
        spacing_mm = tuple(float(edge) for edge in recipe["spacing_mm"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: its config.json lacks input.windows or input.spacing_mm; train it again"
        ) from error
    model = load_glint(folder)
    encoder = model.student.encoder
    patch_mm3 = math.prod(spacing_mm) * math.prod(encoder.config.patch_zyx)
    return LoadedArm(
        model=model,
        grid=encoder.grid,
        volume_zyx=encoder.config.volume_zyx,
        windows=windows,
        patch_weight=patch_mm3 / (model.config.model.reference_patch_mm3 or patch_mm3),
    )
