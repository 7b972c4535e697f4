"""X-ray systems of the hospital: how rays become stored values, and how each maker writes them down.

Attenuation follows Beer and Lambert along diverging rays; scattered photons add a broad glow, quanta add noise, the
detector answers with the logarithm, and the maker's processing lifts edges before its bits are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glint.demo.anatomy import Floats
from glint.demo.projection import Beam, Geometry

WATER_PER_MM = 0.0193
"""Attenuation of water at about 70 keV, the middle of a 120 kV chest spectrum (NIST XCOM)."""
_BONE_GAIN = 1.9
"""Calcium absorbs more of a broad spectrum than its HU at CT's filtration say."""

Voi = Literal["window", "sigmoid", "table", "none"]
Syntax = Literal["raw", "jpeg", "jpeg2000"]
Border = Literal["none", "lead", "lead_in_header", "shutter"]


@dataclass(frozen=True, kw_only=True)
class System:
    """One maker's habits.

    storage: CR or DX; spacing: which elements tell the pixel; voi: how the header asks to be shown, none where the values
    are made for display already; border: how the collimator shows; private: group, creator, elements as (offset, VR, what).
    """

    key: str
    manufacturer: str
    models: tuple[str, ...]
    software: str
    station: str
    storage: Literal["CR", "DX"]
    photometric: Literal["MONOCHROME1", "MONOCHROME2"]
    bits: int
    voi: Voi
    syntax: Syntax
    spacing: Literal["both", "imager", "pixel", "none"]
    pixel_mm: float
    border: Border
    edge_gain: float
    portable: bool
    private: tuple[int, str, tuple[tuple[int, str, str], ...]]


SYSTEMS = (
    System(
        key="fuji",
        manufacturer="FUJIFILM Corporation",
        models=("5000R", "FCR XG5000"),
        software="A18-02",
        station="FCR3",
        storage="CR",
        photometric="MONOCHROME1",
        bits=10,
        voi="window",
        syntax="raw",
        spacing="both",
        pixel_mm=0.9,
        border="lead",
        edge_gain=0.5,
        portable=True,
        private=(0x0009, "FDMS 1.0", ((0x05, "LO", "literal:FCR"), (0x91, "LO", "name"))),
    ),
    System(
        key="carestream",
        manufacturer="Carestream Health",
        models=("DRX-Revolution",),
        software="5.7.412.7005",
        station="REVO12",
        storage="DX",
        photometric="MONOCHROME2",
        bits=12,
        voi="table",
        syntax="raw",
        spacing="imager",
        pixel_mm=0.85,
        border="shutter",
        edge_gain=0.9,
        portable=True,
        private=(0x0029, "Eastman Kodak Company", ((0x16, "LO", "mrn"),)),
    ),
    System(
        key="philips",
        manufacturer="Philips Medical Systems",
        models=("DigitalDiagnost",),
        software="4.1.2",
        station="DIDI01",
        storage="DX",
        photometric="MONOCHROME2",
        bits=15,
        voi="sigmoid",
        syntax="raw",
        spacing="both",
        pixel_mm=0.88,
        border="lead_in_header",
        edge_gain=0.7,
        portable=False,
        private=(0x2001, "Philips Imaging DD 001", ((0x63, "CS", "literal:CHEST"),)),
    ),
    System(
        key="ge",
        manufacturer="GE Healthcare",
        models=("Definium 8000", "Optima XR220amx"),
        software="DM_RELEASE_27.1",
        station="GEXR2",
        storage="DX",
        photometric="MONOCHROME1",
        bits=14,
        voi="sigmoid",
        syntax="jpeg2000",
        spacing="imager",
        pixel_mm=0.95,
        border="none",
        edge_gain=0.6,
        portable=True,
        private=(0x0011, "GEMS_GDXE_FALCON_04", ((0x03, "LO", "operator"),)),
    ),
    System(
        key="agfa",
        manufacturer="Agfa",
        models=("CR 85-X",),
        software="NIM_2105",
        station="ADC_5155",
        storage="CR",
        photometric="MONOCHROME2",
        bits=12,
        voi="table",
        syntax="jpeg2000",
        spacing="none",
        pixel_mm=0.9,
        border="lead",
        edge_gain=1.0,
        portable=True,
        private=(0x0019, "Agfa ADC NX", ((0x10, "LO", "name"),)),
    ),
    System(
        key="archive",
        manufacturer="Konica Minolta",
        models=("0402",),
        software="1.20R00",
        station="KMCS",
        storage="CR",
        photometric="MONOCHROME2",
        bits=8,
        voi="none",
        syntax="jpeg",
        spacing="none",
        pixel_mm=0.92,
        border="none",
        edge_gain=0.6,
        portable=False,
        private=(0x0029, "KONICA1", ((0x11, "LO", "mrn"),)),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """How one film was taken. scatter: share of the signal; quanta: photons of an unattenuated pixel; tilt of the film in pixels."""

    system: System
    model: str
    geometry: Geometry
    view: Literal["PA", "AP", "LL"]
    kvp: int
    scatter: float
    quanta: float
    collimation: tuple[float, float, float, float]


def draw_exposure(rng: np.random.Generator, view: Literal["PA", "AP", "LL"]) -> Exposure:
    """One exposure: system, distances, field of view, dose. collimation: shares of the edges cut off (top, bottom, left, right)."""
    fitting = [system for system in SYSTEMS if system.portable or view != "AP"]
    system = fitting[int(rng.integers(len(fitting)))]
    beams: dict[str, Beam] = {"PA": "back_to_front", "AP": "front_to_back", "LL": "right_to_left"}
    standing = view != "AP"
    width = 350.0 if standing else 345.0
    return Exposure(
        system=system,
        model=str(rng.choice(system.models)),
        geometry=Geometry(
            beam=beams[view],
            source_mm=float(rng.choice([1800.0, 1830.0]) if standing else rng.choice([1000.0, 1100.0, 1200.0])),
            gap_mm=float(rng.uniform(15, 30) if standing else rng.uniform(20, 60)),
            centre_mm=(float(rng.uniform(-4, 10)), float(rng.uniform(-7, 7))),
            size_mm=(float(rng.choice([335.0, 345.0])), 290.0 if view == "LL" else width),
        ),
        view=view,
        kvp=int(rng.choice([117, 120, 125]) if standing else rng.choice([85, 90, 100])),
        scatter=float(rng.uniform(0.25, 0.4) if standing else rng.uniform(0.45, 0.62)),
        quanta=float(rng.uniform(5e4, 1.2e5) if standing else rng.uniform(1.5e4, 4e4)),
        collimation=tuple(rng.uniform(0.01, 0.07, 4)),
    )


def attenuation_per_mm(volume_hu: Floats) -> Floats:
    """Linear attenuation (z, y, x) of tissue by its HU; dense bone more than in proportion."""
    from scipy.ndimage import gaussian_filter1d

    bone = np.maximum(0, volume_hu - 90) * _BONE_GAIN
    sharp = np.maximum(0, 1 + (volume_hu + bone) / 1000) * np.float32(WATER_PER_MM)
    # Voxels have corners, bodies have not.
    return np.asarray(gaussian_filter1d(gaussian_filter1d(sharp, 0.6, axis=0), 0.6, axis=2), np.float32)


def _blurred(image: Floats, sigma_px: float) -> Floats:
    """Gaussian blur; a wide one on a thinned image, which shows no difference."""
    from scipy.ndimage import gaussian_filter, zoom

    if sigma_px < 8:
        return np.asarray(gaussian_filter(image, sigma_px, mode="nearest", truncate=3.0), np.float32)
    step = int(sigma_px // 3)
    small = gaussian_filter(image[::step, ::step], sigma_px / step, mode="nearest", truncate=3.0)
    wide = zoom(small, step, order=1, mode="nearest", grid_mode=True)
    padded = np.pad(wide, [(0, max(0, n - m)) for n, m in zip(image.shape, wide.shape, strict=True)], mode="edge")
    return np.asarray(padded[: image.shape[0], : image.shape[1]], np.float32)


def leaf_box(exposure: Exposure, shape_yx: tuple[int, int]) -> tuple[int, int, int, int]:
    """What the collimator leaves open, in pixels: rows y0..y1, columns x0..x1, half-open."""
    top, bottom, left, right = exposure.collimation
    rows, columns = shape_yx
    return round(top * rows), rows - round(bottom * rows), round(left * columns), columns - round(right * columns)


def expose(rng: np.random.Generator, line_integral_YX: Floats, exposure: Exposure) -> Floats:
    """Detector signal (rows, columns): minus the logarithm of primary and scattered photons, blurred and noisy.

    Behind the leaves of the collimator a thousandth of the beam arrives, and what scatters under them.
    """
    pixel_mm = exposure.system.pixel_mm
    primary = np.exp(-line_integral_YX)
    if exposure.system.border != "none":
        y0, y1, x0, x1 = leaf_box(exposure, (primary.shape[0], primary.shape[1]))
        leaked = 1e-3 * primary
        leaked[y0:y1, x0:x1] = primary[y0:y1, x0:x1]
        primary = leaked
    scatter = _blurred(primary, 32 / pixel_mm) * np.float32(exposure.scatter / (1 - exposure.scatter))
    arrived = _blurred(primary, 0.35 / pixel_mm) + scatter
    arrived = arrived + rng.standard_normal(arrived.shape, dtype=np.float32) * np.sqrt(arrived / exposure.quanta)
    return np.asarray(-np.log(np.maximum(arrived, 1e-5)), np.float32)


def processed(signal_YX: Floats, system: System) -> Floats:
    """The maker's picture: edges and detail lifted, the wide differences between lung and mediastinum pressed together."""
    coarse = _blurred(signal_YX, 16 / system.pixel_mm)
    fine = _blurred(signal_YX, 0.6 / system.pixel_mm) - _blurred(signal_YX, 3.6 / system.pixel_mm)
    return np.asarray(signal_YX + 2 * system.edge_gain * fine - 0.3 * (coarse - 1.8), np.float32)


@dataclass(frozen=True, kw_only=True)
class Display:
    """How stored values are meant to be shown: centre and width of a window in stored values, or a table of entries."""

    centre: float
    width: float
    table: tuple[int, int, tuple[int, ...]] | None = None


def stored(picture_YX: Floats, inside: tuple[slice, slice], system: System) -> tuple[NDArray[Any], Display]:
    """Stored values (uint8 or uint16) that use most of the system's bits, and the display that makes a film of them.

    `inside` is the exposed field, from which lung and mediastinum are measured. Values of MONOCHROME1 run from dense to
    thin; the display speaks of stored values, as VOI elements do (PS3.3 C.11.2).
    """
    field = picture_YX[inside]
    rows, columns = field.shape
    middle = field[rows // 6 : -rows // 4 : 3, columns // 5 : -columns // 5 : 3]
    low, high = (float(value) for value in np.percentile(middle, (5, 97)))
    span = high - low
    darkest, brightest = low - 0.22 * span, high + 0.14 * span
    if system.voi == "none":
        shown = (picture_YX - darkest) / (brightest - darkest)
        return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8), Display(centre=128, width=256)
    top = 2**system.bits - 1
    # A third of the range is spare, as on real detectors.
    offset, scale = 0.2 * top, 0.6 * top / (brightest - darkest)
    values = np.clip(np.rint(offset + scale * (picture_YX - darkest)), 0, top)
    centre, width = offset + scale * ((low + high) / 2 - darkest), scale * (brightest - darkest)
    if system.photometric == "MONOCHROME1":
        values, centre = top - values, top - centre
    display = Display(centre=round(centre, 1), width=round(width, 1))
    if system.voi == "table":
        first = int(centre - 0.75 * width)
        entries = np.arange(first, int(centre + 0.75 * width) + 1)
        curve = 1 / (1 + np.exp(-4.2 * (entries - centre) / width))
        display = Display(
            centre=display.centre, width=display.width, table=(first, 12, tuple(int(v) for v in np.rint(4095 * curve)))
        )
    return values.astype(np.uint16), display
