"""Bit fields drawn on a scan or a film, found under their study's name and brought onto the model's grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glint.core.errors import GlintError, Quarantine
from glint.core.ids import Pseudonyms
from glint.formats.model_image import (
    FILM_AFFINE,
    FILM_SUFFIX,
    Bits,
    blank_bits,
    load_model_image,
    read_mask_bits,
    write_mask_bits,
)
from glint.prepare.resample import resample_mask
from glint.prepare.resample.films import FilmMap, resample_film_mask

SUFFIX = ".nii.gz"


def truth_files(folder: Path, pseudonyms: Pseudonyms | None) -> dict[str, Path]:
    """Pseudonym of the study, or of the film, → bit field; without `pseudonyms` the files are named by pseudonym already."""
    named = {
        SUFFIX: pseudonyms.study_id if pseudonyms else str,
        FILM_SUFFIX: pseudonyms.instance_id if pseudonyms else str,
    }
    return {
        name(path.name.removesuffix(suffix)): path
        for suffix, name in named.items()
        for path in sorted(folder.glob(f"*{suffix}"))
    }


def name_in(study: Mapping[str, Any], known: Mapping[str, object]) -> str:
    """What of a study `known` goes by: its film, else the study."""
    return str(study["instance_id"] if study["instance_id"] in known else study["study_id"])


def bring_to_grid(
    study: Mapping[str, Any], file: Path, *, num_masks: int, target: Path, folder: str
) -> tuple[Bits, Bits, Path]:
    """Write the masks of `file` on the grid of a study's image as `target / folder / <study_id>`.

    Returns:
        The masks as they were drawn, those on the grid, and the path below `target`.

    Raises:
        Quarantine: `unreadable_truth`, or `unknown_truth_bit` where a bit beyond `num_masks` is set; its words hold no name.
    """
    try:
        bits, affine = read_mask_bits(file)
    except GlintError:
        raise Quarantine("unreadable_truth", "the mask can't be read") from None
    if bits.dtype.kind not in "iu" or (bits.size and (bits.min() < 0 or int(bits.max()) >> num_masks)):
        raise Quarantine("unknown_truth_bit", f"a bit beyond the {num_masks} named masks is set")
    volume, image_affine = load_model_image(Path(study["folder"], study["path"]))
    if study["to_original"]:
        on_grid = _film_bits(bits[0], study["to_original"], volume.shape[1:], num_masks)
        relative, image_affine = Path(folder, f"{study['study_id']}{FILM_SUFFIX}"), FILM_AFFINE
    else:
        on_grid = resample_mask(bits.astype(blank_bits((), num_masks).dtype), affine, image_affine, volume.shape)
        relative = Path(folder, f"{study['study_id']}{SUFFIX}")
    write_mask_bits(target / relative, on_grid, image_affine)
    return bits, on_grid, relative


def _film_bits(bits_YX: NDArray[Any], to_original: Sequence[float], grid_yx: Sequence[int], num_masks: int) -> Bits:
    """(1, Y, X): every mask, drawn on the original film, on the model's grid."""
    scale_x, _, offset_x, _, scale_y, offset_y, *_ = to_original
    film_map = FilmMap(offset_yx=(offset_y, offset_x), scale_yx=(scale_y, scale_x))
    on_grid = blank_bits((1, *grid_yx), num_masks)
    for bit in range(num_masks):
        on_grid[0][resample_film_mask(bits_YX >> bit & 1, film_map, grid_yx)] |= on_grid.dtype.type(1 << bit)
    return on_grid
