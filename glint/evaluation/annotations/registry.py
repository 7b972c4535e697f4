"""The published annotation sets that GLINT reads, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from glint.evaluation.annotations.film_labels import (
    read_chexpert,
    read_mimic_cxr,
    read_nih,
    read_openi,
    read_padchest,
)
from glint.evaluation.annotations.film_regions import (
    read_chestx_det,
    read_chestxdet10,
    read_ms_cxr,
    read_rsna,
    read_siim,
)
from glint.evaluation.annotations.volumes import read_ct_rate, read_rad_chestct, read_rexgroundingct


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """One published set.

    unlisted: what a finding is that an image's rows don't name. drawn: every image that shows a finding has its place drawn, so that
    an image without any has an empty mask. names_volumes: masks are volumes, not films.
    """

    read: Callable[[Path], pl.DataFrame]
    files: tuple[str, ...]
    holds: str
    source: str
    unlisted: Literal["absent", "unknown"] = "absent"
    drawn: bool = False
    names_volumes: bool = False


ANNOTATIONS: dict[str, AnnotationSet] = {
    "ct_rate": AnnotationSet(
        read=read_ct_rate,
        files=("*train_predicted_labels.csv", "*valid_predicted_labels.csv"),
        holds="18 labels per reconstruction, made from the reports by a text classifier",
        source="Hugging Face ibrahimhamamci/CT-RATE, CC BY-NC-SA 4.0, terms to accept",
        names_volumes=True,
    ),
    "rad_chestct": AnnotationSet(
        read=read_rad_chestct,
        files=("img{train,valid,test}_Abnormality_and_Location_Labels.csv",),
        holds="84 abnormalities by location, made from the reports by rules",
        source="Zenodo 6406114, CC BY-NC-ND 4.0",
        names_volumes=True,
    ),
    "rexgroundingct": AnnotationSet(
        read=read_rexgroundingct,
        files=("dataset.json or MICCAI_challenge_dataset.json", "segmentations/*.nii.gz"),
        holds="sentences of findings with masks on CT-RATE scans, 14 categories",
        source="Hugging Face rajpurkarlab/ReXGroundingCT, CC BY-NC-SA 4.0, terms to accept",
        unlisted="unknown",
        names_volumes=True,
    ),
    "ms_cxr": AnnotationSet(
        read=read_ms_cxr,
        files=("MS_CXR_Local_Alignment_v*.csv or .json",),
        holds="boxes with phrases, 8 findings, on MIMIC-CXR films",
        source="PhysioNet ms-cxr, credentialed access",
        unlisted="unknown",
    ),
    "chestx_det": AnnotationSet(
        read=read_chestx_det,
        files=("ChestX_Det_train.json", "ChestX_Det_test.json"),
        holds="boxes and contours of 13 findings on NIH films",
        source="github Deepwise-AILab/ChestX-Det-Dataset, Apache-2.0",
        drawn=True,
    ),
    "chestxdet10": AnnotationSet(
        read=read_chestxdet10,
        files=("train.json", "test.json"),
        holds="boxes of 10 findings on NIH films",
        source="github Deepwise-AILab/ChestX-Det10-Dataset",
        drawn=True,
    ),
    "siim": AnnotationSet(
        read=read_siim,
        files=("train-rle.csv or stage_2_train.csv",),
        holds="masks of pneumothorax on NIH films",
        source="Kaggle SIIM-ACR Pneumothorax Segmentation, terms to accept",
        drawn=True,
    ),
    "rsna": AnnotationSet(
        read=read_rsna,
        files=("stage_2_train_labels.csv",),
        holds="boxes of pneumonia on NIH films",
        source="Kaggle RSNA Pneumonia Detection Challenge, terms to accept",
        drawn=True,
    ),
    "openi": AnnotationSet(
        read=read_openi,
        files=("custom.csv, or ecgen-radiology.tgz, or its XML files",),
        holds="18 labels from automatic MeSH terms",
        source="Indiana University / NLM Open-i, reports CC BY-NC-ND 4.0",
    ),
    "padchest": AnnotationSet(
        read=read_padchest,
        files=("PADCHEST_chest_x_ray_images_labels_*.csv",),
        holds="lists of labels, by physicians or by a network",
        source="BIMCV PadChest, terms to accept",
    ),
    "chexpert": AnnotationSet(
        read=read_chexpert,
        files=("test_labels.csv or test.csv", "valid.csv", "train.csv"),
        holds="14 observations",
        source="Stanford AIMI CheXpert, research use agreement",
    ),
    "mimic_cxr": AnnotationSet(
        read=read_mimic_cxr,
        files=("mimic-cxr-*-chexpert.csv(.gz)", "mimic-cxr-*-split.csv(.gz)"),
        holds="14 observations per study, made from the reports by CheXpert's labeller; the official split",
        source="PhysioNet mimic-cxr-jpg, credentialed access",
    ),
    "mimic_cxr_negbio": AnnotationSet(
        read=partial(read_mimic_cxr, labeller="negbio"),
        files=("mimic-cxr-*-negbio.csv(.gz)", "mimic-cxr-*-split.csv(.gz)"),
        holds="the same by NegBio",
        source="PhysioNet mimic-cxr-jpg, credentialed access",
    ),
    "nih": AnnotationSet(
        read=read_nih,
        files=("Data_Entry_2017*.csv", "test_list.txt", "train_val_list.txt", "BBox_List_2017.csv"),
        holds="14 labels, made from the reports by rules; boxes of 8 findings on 880 films",
        source="NIH Clinical Center ChestX-ray14, no restriction, attribution asked",
    ),
}
