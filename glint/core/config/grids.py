"""Named grids and windows: what published models were trained on, as data.

Sizes and spacings are (z, y, x). The values of a window are HU (low, high), taken to 0 and 1 by `window_channels`.
"""

from dataclasses import dataclass

WINDOWS_HU: dict[str, tuple[float, float]] = {
    "lung": (-1350.0, 150.0),  # level -600, width 1500
    "mediastinum": (-160.0, 240.0),  # level 40, width 400
    "full": (-1000.0, 1000.0),  # CT-CLIP, Merlin, COLIPRI: +-1000 HU
}


@dataclass(frozen=True, kw_only=True)
class GridPreset:
    """The volume that a model expects. `windows` are names in `WINDOWS_HU`; `source` says where the numbers are from."""

    spacing_mm: tuple[float, float, float]
    grid: tuple[int, int, int]
    clip_hu: tuple[float, float]
    pad_hu: int
    antialias: bool
    windows: tuple[str, ...]
    source: str


GRID_PRESETS: dict[str, GridPreset] = {
    "ct_clip": GridPreset(
        spacing_mm=(1.5, 0.75, 0.75),
        grid=(240, 480, 480),
        clip_hu=(-1000.0, 1000.0),
        pad_hu=-1000,
        antialias=False,
        windows=("full",),
        source="CT-CLIP, scripts/data.py: trilinear, HU / 1000 in -1..1, padded with -1; its int() of the size drifts by "
        "up to 0.65 mm, which is not copied",
    ),
    "merlin": GridPreset(
        spacing_mm=(3.0, 1.5, 1.5),
        grid=(160, 224, 224),
        clip_hu=(-1000.0, 1000.0),
        pad_hu=-1000,
        antialias=False,
        windows=("full",),
        source="Merlin, monai transforms: RAS, Spacing bilinear, -1000..1000 HU to 0..1, padded with 0",
    ),
    "colipri": GridPreset(
        spacing_mm=(2.0, 2.0, 2.0),
        grid=(192, 192, 192),
        clip_hu=(-1000.0, 1000.0),
        pad_hu=-1000,
        antialias=True,
        windows=("full",),
        source="COLIPRI's published processor: 2 mm, 192 voxels cut or padded, +-1000 HU",
    ),
    "dinov3": GridPreset(
        spacing_mm=(5.0, 1.5, 1.5),
        grid=(72, 256, 256),
        clip_hu=(-1350.0, 1000.0),
        pad_hu=-1350,
        antialias=True,
        windows=("lung", "mediastinum", "full"),
        source="DINOv3: slices of 256 x 256, a multiple of its patch of 16, three channels; the millimetres are ours, "
        "so that 360 x 384 x 384 mm hold a chest",
    ),
    "vjepa": GridPreset(
        spacing_mm=(5.0, 1.5, 1.5),
        grid=(64, 256, 256),
        clip_hu=(-1350.0, 1000.0),
        pad_hu=-1350,
        antialias=True,
        windows=("lung", "mediastinum", "full"),
        source="V-JEPA 2: 64 frames of 256 x 256, tubelets of 2 x 16 x 16, three channels; the millimetres are ours",
    ),
}
