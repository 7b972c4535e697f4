"""A tiny cohort on disk: noise volumes with box lesions of their own brightness, masks as bit fields, and a model to fake.

Lesions fill one patch of 8 voxels; every image is cut off at the top, so that padding is there too.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from glint.core.ids import Pseudonyms
from glint.evaluation.arms import LoadedArm
from glint.evaluation.stage import Inputs
from glint.evaluation.truth import make_truth
from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.nifti import write_nifti

SHAPE, GRID, PATCH = (24, 24, 32), (3, 3, 4), 8
FINDINGS = {"mass": 600, "emphysema": -980}
WINDOWS = ((-1000.0, 1000.0),)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
VALID_BOX = (0, 16, 0, 24, 0, 32)
KEY = b"k" * 32
SPLITS = ("train",) * 20 + ("validation",) * 8 + ("test",) * 16


def uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.{7000 + number}"


def write_cohort(root: Path, *, seed: int = 0, studies: int = len(SPLITS)) -> Inputs:
    """Stages 04, 05, 06, 08 and the truth, as far as stage 10 reads them; checkpoints are empty folders."""
    rng = np.random.default_rng(seed)
    names = Pseudonyms(KEY)
    truth = root / "restricted" / "truth"
    truth.mkdir(parents=True)
    (truth / "findings.json").write_text('{"0": "mass", "1": "emphysema"}')
    images, splits, stated, features = [], [], [], []
    for number in range(studies):
        study, patient = names.study_id(uid(number)), names.patient_id(f"MRN{number // 2}")
        volume = rng.normal(0, 40, SHAPE).astype(np.int16)
        volume[16:] = -1024
        bits = np.zeros(SHAPE, np.uint16)
        for bit, (finding, hu) in enumerate(FINDINGS.items()):
            if (number + bit) % 3 == 0:
                z, y, x = PATCH * rng.integers(0, (2, *GRID[1:]))
                box = (slice(z, z + PATCH), slice(y, y + PATCH), slice(x, x + PATCH))
                volume[box], bits[box] = hu, bits[box] | 1 << bit
                stated.append({"study_id": study, "finding": finding, "polarity": "present"})
        relative = f"volumes/{study}.nii"
        write_nifti(root / "04" / relative, volume, AFFINE)
        write_nifti(truth / "plain.nii", bits, AFFINE)
        write_gzip(truth / "plain.nii", truth / f"{uid(number)}.nii.gz")
        common = {"study_id": study, "patient_id": patient, "status": "ok"}
        images.append(
            common
            | {"path": relative, "affine": AFFINE.ravel().tolist(), "valid_box": list(VALID_BOX), "not_selected": []}
        )
        splits.append(common | {"split": SPLITS[number % len(SPLITS)]})
        features.append(common | {"path": "x.h5", "row": number, "fingerprint": "f"})
    files = {"resample": root / "04" / "manifest.parquet", "split": root / "06" / "manifest.parquet"}
    files |= {"features": root / "08" / "manifest.parquet", "findings": root / "05" / "findings.parquet"}
    tables = {"resample": images, "split": splits, "features": features, "findings": stated}
    for schema, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, manifest_frame(tables[schema], schema), schema)
    out = root / "10" / "truth" / "manifest.parquet"
    make_truth(truth_dir=truth, pseudonyms=names, resampled=[files["resample"]], split=files["split"], out_path=out)
    return Inputs(
        checkpoints=(root / "09" / "glint", root / "09" / "global_pooling"),
        resampled=(files["resample"],),
        sections=(root / "05" / "manifest.parquet",),
        split=files["split"],
        features=(files["features"],),
        truth=out,
    )


def write_gzip(source: Path, target: Path) -> None:
    import gzip

    target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    source.unlink()


@dataclass(frozen=True)
class Aligned:
    score_TB: torch.Tensor
    gate_logits_TBP: torch.Tensor
    gate_mass_TB: torch.Tensor
    bias: torch.Tensor


class BrightnessModel:
    """Knows a mass by brightness and emphysema by darkness; `blind` sees neither."""

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind

    def encode_text(self, sentences):
        return list(sentences)

    def encode_volume(self, volume_BCZYX):
        return torch.nn.functional.avg_pool3d(volume_BCZYX, PATCH).flatten(1)

    def score(self, tokens, queries, patch_weight_BP):
        assert patch_weight_BP.shape == tokens.shape
        logits = []
        for sentence in queries:
            sign = -1.0 if "emphysema" in sentence else 1.0
            evidence = 60 * (sign * (tokens - 0.5) - 0.12)
            logits.append(
                torch.full_like(evidence, -1.0) if self.blind else (evidence if " no " not in sentence else -evidence)
            )
        logits_TBP = torch.stack(logits)
        held = torch.where(patch_weight_BP > 0, logits_TBP, -torch.inf)
        mass = (patch_weight_BP * torch.sigmoid(logits_TBP)).sum(-1)
        return Aligned(held.max(-1).values, logits_TBP, mass, torch.tensor(0.0))


def load_fake(folder: Path) -> LoadedArm:
    return LoadedArm(model=BrightnessModel(blind=folder.name != "glint"), grid=GRID, volume_zyx=SHAPE, windows=WINDOWS)


def fake_tokens(inputs: Inputs):
    """Mean and deviation of every patch, as a teacher might see it."""
    from glint.formats.nifti import load_model_volume

    folder = inputs.resampled[0].parent

    def read(_, study_ids):
        rows = []
        for study in study_ids:
            volume = load_model_volume(folder / "volumes" / f"{study}.nii")[0].astype(np.float32)
            blocks = volume.reshape(3, 8, 3, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(36, -1)
            rows.append(np.stack([blocks.mean(1), blocks.std(1), blocks.min(1), blocks.max(1)], axis=1))
        return np.stack(rows)

    return read


def frame_text(path: Path) -> str:
    return pl.read_parquet(path).write_json()
