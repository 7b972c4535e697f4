"""Stage-04 and stage-06 files of a few small studies, as stages 07 and 08 read them."""

import numpy as np

from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.nifti import write_nifti

SHAPE = (16, 16, 16)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def study_id(number):
    return f"s{number:020x}"


def volume(number):
    rng = np.random.default_rng(number)
    return rng.integers(-1000, 400, size=SHAPE).astype(np.int16)


def write_stages(root, *, studies=5, quarantined=1):
    """Manifests of stages 04 and 06; study 0 is a test study, the last `quarantined` ones have no volume."""
    resampled, split = root / "04_resample/shard-000/manifest.parquet", root / "06_split/manifest.parquet"
    rows, parts = [], []
    for number in range(studies):
        common = {
            "study_id": study_id(number),
            "patient_id": f"p{number:020x}",
            "input_digest": "i",
            "params_digest": "p",
        }
        parts.append({**common, "split": "test" if number == 0 else "train", "status": "ok"})
        if number >= studies - quarantined:
            rows.append(
                {**common, "status": "quarantined", "reason": "too_few_slices", "detail": "of an earlier stage"}
            )
            continue
        write_nifti(resampled.parent / f"volumes/{study_id(number)}.nii", volume(number), AFFINE)
        rows.append(
            {
                **common,
                "series_id": f"r{number:020x}",
                "status": "ok",
                "path": f"volumes/{study_id(number)}.nii",
                "affine": AFFINE.ravel().tolist(),
                "valid_box": [0, 16, 2, 16, 0, 16],
                "not_selected": [],
            }
        )
    write_manifest(resampled, manifest_frame(rows, "resample"), "resample")
    split.parent.mkdir(parents=True)
    write_manifest(split, manifest_frame(parts, "split"), "split")
    return resampled, split
