"""A trained arm as stage 10 uses it: the model, and what it takes to feed it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from glint.core.errors import FingerprintError
from glint.evaluation.zero_shot import AsksVolumes, Grid


@dataclass(frozen=True, kw_only=True)
class LoadedArm:
    """`grid` patches and `volume_zyx` voxels along (z, y, x); `windows` HU of each channel."""

    model: AsksVolumes
    grid: Grid
    volume_zyx: tuple[int, int, int]
    windows: tuple[tuple[float, float], ...]


def load_arm(folder: Path) -> LoadedArm:
    """The model of a checkpoint folder, in eval mode.

    Raises:
        InputError: no checkpoint, or one that does not say how its input was made.
    """
    from glint.model.pretrained import load_glint

    model = load_glint(folder)
    assert model.preprocessing is not None  # a folder without it does not load
    encoder = model.student.encoder
    return LoadedArm(
        model=model,
        grid=encoder.grid,
        volume_zyx=encoder.volume_zyx,
        windows=model.preprocessing.windows,
    )


def check_made_from(folder: Path, expected: Mapping[str, str]) -> None:
    """Refuse a checkpoint that was trained on other tables than those it is measured with: another split would leak.

    Args:
        folder: Checkpoint; what its fingerprint does not name is not compared.
        expected: Input → digest.

    Raises:
        InputError: no checkpoint.
        FingerprintError: an input differs.
    """
    from glint.formats.checkpoint import read_checkpoint

    inputs = read_checkpoint(folder).fingerprint
    for name, value in expected.items():
        if inputs.get(name, value) != value:
            raise FingerprintError(
                f"{folder}: trained on {name} {str(inputs[name])[:12]}, measured with {value[:12]}; "
                "run stage 09 again, or set evaluate.foreign_checkpoint for an outside cohort"
            )
