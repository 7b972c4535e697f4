"""Rays through simple solids, against lengths that geometry gives."""

import numpy as np
import pytest

from glint.demo.projection import Geometry, detector_axes_mm, enlarge, line_integrals

SPACING_MM = (2.0, 2.5, 2.0)
SHAPE = (90, 64, 100)


def ball(centre_zyx: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    squared = (z - centre_zyx[0]) ** 2 + (y - centre_zyx[1]) ** 2 + (x - centre_zyx[2]) ** 2
    return (squared < radius_mm**2).astype(np.float32)[None]


def geometry(beam: str, source_mm: float = 600.0) -> Geometry:
    return Geometry(beam=beam, source_mm=source_mm, gap_mm=20.0, centre_mm=(4.0, -6.0), size_mm=(200.0, 230.0))


def chord_mm(centre: np.ndarray, radius_mm: float, source: np.ndarray, target: np.ndarray) -> float:
    """Length of the segment source–target inside a ball, by the quadratic formula."""
    direction = (target - source) / np.linalg.norm(target - source)
    along = (centre - source) @ direction
    off = np.linalg.norm(centre - source - along * direction)
    return 2 * float(np.sqrt(max(0.0, radius_mm**2 - off**2)))


@pytest.mark.parametrize(
    ("beam", "along", "across", "towards"),
    [("back_to_front", 1, 2, -1), ("front_to_back", 1, 2, 1), ("right_to_left", 2, 1, 1)],
)
def test_a_ball_off_centre_casts_the_shadow_that_ray_tracing_gives(beam, along, across, towards):
    centre, radius = np.array([21.0, -32.0, 27.0]), 18.0
    taken = geometry(beam)
    image = line_integrals(ball(tuple(centre), radius), SPACING_MM, taken, 2.0)[0]
    rows_mm, columns_mm = detector_axes_mm(taken, 2.0)
    outermost = (SHAPE[along] - 1) / 2 * SPACING_MM[along]
    detector = towards * (outermost + taken.gap_mm)
    source, target = np.zeros(3), np.zeros(3)
    source[[0, across, along]] = taken.centre_mm[0], taken.centre_mm[1], detector - towards * taken.source_mm
    expected = np.zeros_like(image)
    for r, down in enumerate(rows_mm):
        for c, aside in enumerate(columns_mm):
            target[[0, across, along]] = taken.centre_mm[0] + down, taken.centre_mm[1] + aside, detector
            expected[r, c] = chord_mm(centre, radius, source, target)
    middle = lambda shadow: np.array(np.nonzero(shadow > 6)).mean(axis=1)  # noqa: E731
    np.testing.assert_allclose(middle(image), middle(expected), atol=0.35)
    assert image.sum() == pytest.approx(expected.sum(), rel=0.02)
    assert image.max() == pytest.approx(2 * radius, rel=0.06)


def test_what_lies_far_from_the_detector_is_magnified_more():
    near, far = (
        (line_integrals(ball((0, y, 0), 15.0), SPACING_MM, geometry("back_to_front"), 2.0)[0] > 3).sum()
        for y in (-55, 55)
    )
    assert far > 1.3 * near


def test_a_finer_grid_shows_the_same_picture():
    y, x = np.mgrid[0:30, 0:40]
    smooth = (np.sin(y / 6) + np.cos(x / 7)).astype(np.float32)[None]
    finer = enlarge(smooth, (90, 120))
    np.testing.assert_allclose(finer[0, 1::3, 1::3], smooth[0], atol=1e-5)
    assert np.abs(finer[0, 10:80, 10:110]).max() <= np.abs(smooth).max() + 0.02
