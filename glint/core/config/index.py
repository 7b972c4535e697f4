"""Configuration of stage 01, the inventory of raw studies and reports."""

from typing import Literal

from pydantic import Field

from glint.core.config.base import StageConfig

NON_CHEST_BODY_PARTS = (
    "ABDOMEN",
    "ABDOMENPELVIS",
    "ANKLE",
    "ARM",
    "BRAIN",
    "CSPINE",
    "ELBOW",
    "EXTREMITY",
    "FACE",
    "FOOT",
    "HAND",
    "HEAD",
    "HEADNECK",
    "HIP",
    "KNEE",
    "LEG",
    "LSPINE",
    "NECK",
    "ORBIT",
    "PELVIS",
    "SHOULDER",
    "SINUS",
    "SKULL",
    "WRIST",
)


class IndexConfig(StageConfig):
    """Shards, accepted body parts, and the columns of the report table."""

    raw_dirs: tuple[str, ...] = Field(
        default=(),
        description="paths; folders or archives (zip, tar, tar.gz) with raw DICOM files, any names and depth, read by their headers",
    )
    report_table: str | None = Field(
        default=None, description="path; CSV or Parquet with one report per row, or null where there are no reports"
    )
    num_shards: int = Field(
        default=8, ge=1, le=999, description="count; jobs per stage, so that many studies stay few jobs"
    )
    non_chest_body_parts: tuple[str, ...] = Field(
        default=NON_CHEST_BODY_PARTS,
        description="BodyPartExamined values, letters only; naming one quarantines the series, absence does not",
    )
    report_key: Literal["accession", "study_uid"] = Field(
        default="accession", description="what joins a report to its study: accession number or Study Instance UID"
    )
    key_column: str = Field(default="accession_number", description="column of the report table that holds report_key")
    text_column: str = Field(default="report", description="column of the report table that holds the free text")
    patient_id_column: str | None = Field(
        default=None,
        description="column with the patient ID, or null; a report of another patient than its study is quarantined",
    )
    identifier_columns: tuple[str, ...] = Field(
        default=(),
        description="further columns that identify (patient_name, physician); their values are removed from the text",
    )


class FilmIndexConfig(IndexConfig):
    """What counts as a chest film."""

    accept_for_processing: bool = Field(
        default=False,
        description="switch; take DX films 'for processing' too (raw detector values, without the maker's processing)",
    )
    accept_secondary_capture: bool = Field(
        default=False,
        description="switch; take Secondary Capture with modality CR or DX as films (public sets); else screenshots go",
    )
