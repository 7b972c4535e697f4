"""Ask a trained model about one study.

    from glint import Glint
    from glint.predict import predict
    found = predict(Glint.from_pretrained("results/ct/09_train/glint"), "scan/", ["small right pleural effusion"])

Each `Reply` says whether, how surely and where; `glint.predict.outputs` writes it down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.core.geometry import voxel_to_world
from glint.evaluation.maps import extend_over_padding, upsample_logits
from glint.metrics.grounding import largest_boxes
from glint.predict.scan import Scan, read_scan

if TYPE_CHECKING:
    from glint.model.glint import Glint

MOST_BOXES = 3
LONGEST_QUERY = 500  # characters


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model says of one sentence about one study.

    `score`: cosine. `probability`: the score's, by the checkpoint's calibration. `contrast`: score minus that of the
    denying sentence. `gate_mass`: evidence in reference patches. `present`: at least one patch's worth of evidence, and the
    sentence fits better than its denial; the mask is empty without. `logits_ZYX`: on the model's grid, above 0 where the
    mask opens. `mask_ZYX`: on the original voxels or pixels. `boxes`: (z0, z1, y0, y1, x0, x1), half-open, original voxels,
    the largest first. `peak_zyx`: original voxel of the highest point, told whether present or not; `peak_mm`: RAS mm.
    """

    query: str
    denial: str
    score: float
    probability: float
    contrast: float
    gate_mass: float
    present: bool
    logits_ZYX: NDArray[np.float32]
    mask_ZYX: NDArray[np.bool_]
    boxes: tuple[tuple[int, ...], ...]
    peak_zyx: tuple[int, int, int]
    peak_mm: tuple[float, float, float] | None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A study and the replies to its queries, in their order."""

    scan: Scan
    replies: tuple[Reply, ...]


def check_queries(queries: Sequence[str]) -> list[str]:
    """Queries without blank ends.

    Raises:
        InputError: none, an empty one, or one too long for a sentence.
    """
    clean = [" ".join(query.split()) for query in queries]
    if not clean or not all(clean):
        raise InputError("a query is empty; ask a sentence such as 'small right pleural effusion'")
    if long := [query for query in clean if len(query) > LONGEST_QUERY]:
        raise InputError(f"a query has {len(long[0])} characters, {LONGEST_QUERY} at most: ask one sentence at a time")
    return clean


def sentences_of(query: str, label_prompts: dict[str, dict[str, str]]) -> tuple[str, str]:
    """The sentence that states a query and the one that denies it; a finding of training has its own prompts."""
    known = label_prompts.get(query.lower().replace(" ", "_"))
    if known:
        return known["present"], known["absent"]
    body = query.rstrip(".")
    lowered = body.lower()
    for start in ("there is a ", "there is an ", "there are ", "there is "):
        if lowered.startswith(start):
            body = body[len(start) :]
            break
    return query, f"There is no {body[:1].lower() + body[1:] if not body[:2].isupper() else body}."


def predict(
    model: "Glint", source: str | Path, queries: Sequence[str], *, windows: Sequence[tuple[float, float]] | None = None
) -> Prediction:
    """Read a study, ask every query, lay the answers on the original voxels.

    Args:
        source: Folder of DICOM files, one DICOM film, `.nii[.gz]` in HU, `.png` or `.jpg` film.
        queries: Sentences, or names of findings.
        windows: Input channels; default: those of the checkpoint.

    Raises:
        InputError: no such study, a kind the model wasn't trained on, or a query is none.
        Quarantine: the study is refused, with a reason.
    """
    preprocessing = model.preprocessing
    if preprocessing is None:
        raise InputError("the model was not read by Glint.from_pretrained: it does not say how its input is made")
    asked = check_queries(queries)
    scan = read_scan(Path(source), preprocessing)
    return Prediction(scan=scan, replies=ask_scan(model, scan, asked, windows=windows or preprocessing.windows))


def ask_scan(
    model: "Glint", scan: Scan, queries: Sequence[str], *, windows: Sequence[tuple[float, float]]
) -> tuple[Reply, ...]:
    """Replies to sentences about a scan that was read."""
    import torch

    from glint.model.alignment import valid_patches
    from glint.prepare.resample import window_channels

    preprocessing, calibration = model.preprocessing, model.calibration
    assert preprocessing is not None and calibration is not None
    shape, patch = tuple(preprocessing.volume), tuple(preprocessing.patch)
    grid: Any = tuple(preprocessing.grid)
    if scan.image_ZYX.shape != shape:
        raise InputError(f"the scan lies on a grid of {scan.image_ZYX.shape}, the model takes {shape}")
    valid_P = valid_patches(scan.valid_box, shape, patch)  # type: ignore[arg-type]
    if not valid_P.any():
        raise InputError("no patch of the model's grid holds half of a scan: the study is too small for this model")
    pairs = [sentences_of(query, model.label_prompts) for query in queries]
    channels = window_channels(scan.image_ZYX, windows)
    with torch.inference_mode():
        tokens = model.encode_volume(torch.from_numpy(channels)[None].to(model.device))
        weight = torch.from_numpy(valid_P[None].astype(np.float32)).to(model.device)
        aligned = model.score(tokens, model.encode_text([text for pair in pairs for text in pair]), weight)
    score_T, mass_T = (tensor[:, 0].float().cpu().numpy() for tensor in (aligned.score_TB, aligned.gate_mass_TB))
    raw_TP = aligned.gate_logits_TBP[:, 0].float().cpu().numpy()
    logits_QP = extend_over_padding(raw_TP[::2, None], valid_P[None], grid)[:, 0] + calibration.mask_offset
    null_weight = model.config.model.null_weight
    replies = []
    for place, (query, (_, denial)) in enumerate(zip(queries, pairs, strict=True)):
        score, contrast = float(score_T[2 * place]), float(score_T[2 * place] - score_T[2 * place + 1])
        present = bool(mass_T[2 * place] >= null_weight and contrast > 0)
        logits = upsample_logits(logits_QP[place][None], grid, shape)[0]  # type: ignore[arg-type]
        mask, boxes, peak = _laid_on(scan, logits, present)
        replies.append(
            Reply(
                query=query,
                denial=denial,
                score=score,
                probability=_probability(calibration, query, score, contrast),
                contrast=contrast,
                gate_mass=float(mass_T[2 * place]),
                present=present,
                logits_ZYX=logits,
                mask_ZYX=mask,
                boxes=boxes,
                peak_zyx=peak,
                peak_mm=_world(scan, peak),
            )
        )
    return tuple(replies)


def _probability(calibration: Any, query: str, score: float, contrast: float) -> float:
    """By the finding's own numbers on the contrast where a validation split gave some, else by those of training."""
    own = calibration.findings.get(query.lower().replace(" ", "_"), {})
    if "contrast_scale" in own:
        logit = own["contrast_scale"] * contrast + own["contrast_bias"]
    else:
        logit = calibration.score_scale * score + calibration.score_bias
    return float(1 / (1 + np.exp(-logit)))


def _laid_on(
    scan: Scan, logits_ZYX: NDArray[np.float32], present: bool
) -> tuple[NDArray[np.bool_], tuple[tuple[int, ...], ...], tuple[int, int, int]]:
    """Mask, boxes and highest point on the original grid; padding has no say, and no mask opens where nothing is seen."""
    z0, z1, y0, y1, x0, x1 = scan.valid_box
    lowest = float(logits_ZYX.min())
    held = np.full_like(logits_ZYX, lowest)
    held[z0:z1, y0:y1, x0:x1] = logits_ZYX[z0:z1, y0:y1, x0:x1]
    original = scan.on_original(held, outside=-np.inf)
    peak = np.unravel_index(int(np.argmax(original)), original.shape)
    mask = original > 0 if present else np.zeros(original.shape, np.bool_)
    boxes = tuple(tuple(int(end) for end in box.ravel()) for box in largest_boxes(mask, MOST_BOXES))
    return mask, boxes, (int(peak[0]), int(peak[1]), int(peak[2]))


def _world(scan: Scan, index_ZYX: tuple[int, int, int]) -> tuple[float, float, float] | None:
    """RAS mm of an original voxel; a film has no place in the patient."""
    if scan.film_map is not None:
        return None
    x, y, z = voxel_to_world(scan.original_affine, np.array([index_ZYX], dtype=np.float64))[0]
    return float(x), float(y), float(z)
