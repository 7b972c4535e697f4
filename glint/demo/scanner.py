"""The scanners of the hospital: their grids, their kernels and their noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glint.core.config.demo import DemoConfig
from glint.demo.anatomy import Floats


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Header habits and image character of one scanner.

    kernels: name, blur in pixels, noise in HU. stored_intercept: RescaleIntercept; signed: PixelRepresentation;
    padding: stored value outside the round field of view, None where the square is filled;
    descending: first instance lies at the head; private: group, creator, and elements as (offset, VR, what to write).
    """

    key: str
    manufacturer: str
    models: tuple[str, ...]
    software: str
    station: str
    kernels: tuple[tuple[str, float, float], ...]
    matrices: tuple[int, ...]
    slice_mm: tuple[float, ...]
    image_type: tuple[str, ...]
    stored_intercept: int
    slope: int
    signed: bool
    bits_stored: int
    padding: int | None
    descending: bool
    first_instance: int
    private: tuple[int, str, tuple[tuple[int, str, str], ...]]


VENDORS = (
    Vendor(
        key="siemens",
        manufacturer="SIEMENS",
        models=("SOMATOM Definition AS", "Sensation 64"),
        software="syngo CT 2012B",
        station="CTAWP7",
        kernels=(("B31f", 0.62, 11.0), ("B60f", 0.38, 26.0), ("I70f", 0.40, 24.0)),
        matrices=(96, 92),
        slice_mm=(4.0, 5.0),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
        stored_intercept=-1024,
        slope=1,
        signed=False,
        bits_stored=12,
        padding=None,
        descending=True,
        first_instance=1,
        private=(0x0029, "SIEMENS CSA HEADER", ((0x08, "CS", "literal:IMAGE NUM 4"), (0x60, "LO", "name"))),
    ),
    Vendor(
        key="ge",
        manufacturer="GE MEDICAL SYSTEMS",
        models=("LightSpeed VCT", "Discovery CT750 HD"),
        software="gmp_vct.42",
        station="CT99",
        kernels=(("STANDARD", 0.60, 12.0), ("LUNG", 0.36, 28.0)),
        matrices=(96,),
        slice_mm=(4.4, 5.0),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        stored_intercept=-1024,
        slope=1,
        signed=True,
        bits_stored=16,
        padding=-2000,
        descending=True,
        first_instance=1,
        private=(0x0009, "GEMS_IDEN_01", ((0x01, "LO", "literal:CT_LIGHTSPEED"), (0x30, "LO", "mrn"))),
    ),
    Vendor(
        key="philips",
        manufacturer="Philips",
        models=("Brilliance 64", "iCT 256"),
        software="3.2.0",
        station="HOST-PHIL2",
        kernels=(("B", 0.58, 13.0), ("L", 0.40, 25.0), ("YA", 0.48, 18.0)),
        matrices=(88, 96),
        slice_mm=(4.0, 4.5),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL", "HELIX"),
        stored_intercept=0,
        slope=1,
        signed=True,
        bits_stored=16,
        padding=None,
        descending=False,
        first_instance=0,
        private=(0x01E1, "ELSCINT1", ((0x26, "CS", "literal:CHEST"), (0x40, "LO", "operator"))),
    ),
    Vendor(
        key="toshiba",
        manufacturer="TOSHIBA",
        models=("Aquilion ONE", "Aquilion"),
        software="V4.51ER010",
        station="TSB_CT3",
        kernels=(("FC08", 0.56, 13.0), ("FC51", 0.36, 27.0)),
        matrices=(96, 90),
        slice_mm=(4.2, 5.0),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        stored_intercept=-1024,
        slope=1,
        signed=False,
        bits_stored=16,
        padding=None,
        descending=True,
        first_instance=1,
        private=(0x7005, "TOSHIBA_MEC_CT3", ((0x0B, "SH", "literal:Volume"), (0x11, "LO", "name"))),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How one study was acquired. Shape and spacing are (z, y, x), the origin is (x, y, z) in DICOM's LPS frame."""

    vendor: Vendor
    model: str
    kernel: str
    blur_px: float
    noise_hu: float
    shape_zyx: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_lps_mm: tuple[float, float, float]
    thickness_mm: float


def draw_scan(rng: np.random.Generator, config: DemoConfig, length_mm: float) -> Scan:
    """One acquisition: scanner, kernel, matrix, spacing; z of the origin is the lowest slice's."""
    vendor = VENDORS[int(rng.integers(len(VENDORS)))]
    kernel, blur, noise = vendor.kernels[int(rng.integers(len(vendor.kernels)))]
    matrix = int(rng.choice(vendor.matrices))
    pixel = max(rng.uniform(config.pixel_mm_min, config.pixel_mm_max), 290 / matrix)
    pixel = round(float(pixel), 4)
    step = float(rng.choice(vendor.slice_mm))
    slices = round(length_mm / step)
    corner = -(matrix - 1) / 2 * pixel
    origin = (
        round(corner + rng.uniform(-12, 12), 3),
        round(corner + rng.uniform(-160, -120), 3),
        round(float(rng.uniform(-1500, 300)), 2),
    )
    return Scan(
        vendor=vendor,
        model=str(rng.choice(vendor.models)),
        kernel=kernel,
        blur_px=blur,
        noise_hu=noise * rng.uniform(0.8, 1.25),
        shape_zyx=(slices, matrix, matrix),
        spacing_mm=(step, pixel, pixel),
        origin_lps_mm=origin,
        thickness_mm=step,
    )


def acquire(rng: np.random.Generator, sharp_hu_ZYX: Floats, scan: Scan) -> Floats:
    """Blur by the kernel, add its noise, round to whole HU within what twelve bits hold."""
    from scipy.ndimage import gaussian_filter1d

    image = sharp_hu_ZYX
    for axis, sigma in ((0, 0.35), (1, scan.blur_px), (2, scan.blur_px)):
        image = gaussian_filter1d(image, sigma, axis=axis, mode="nearest", truncate=3.0)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if scan.blur_px > 0.5:
        noise = gaussian_filter1d(gaussian_filter1d(noise, 0.5, axis=1), 0.5, axis=2) * np.float32(1.9)
    image = image + noise * np.float32(scan.noise_hu)
    return np.clip(np.rint(image), -1024, 3071).astype(np.float32)
