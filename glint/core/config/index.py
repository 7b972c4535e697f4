"""Configuration of stage 01, the inventory of raw studies and reports."""

from typing import Literal, Self

from pydantic import Field, model_validator

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
    report_key: Literal["accession", "study_uid", "patient_and_date", "folder"] = Field(
        default="accession",
        description="what joins a report to its study: accession number, Study Instance UID, patient_id_column with date_column, or the "
        "name of the folder with its files (MIMIC-CXR: s50414267); what fits two studies is quarantined",
    )
    key_column: str = Field(default="accession_number", description="column of the report table that holds report_key")
    date_column: str | None = Field(
        default=None, description="column with the date of the study, for report_key patient_and_date; else null"
    )
    date_format: str = Field(default="%Y-%m-%d", description="strptime form of date_column, such as %d.%m.%Y or %Y%m%d")
    text_column: str = Field(default="report", description="column of the report table that holds the free text")
    patient_id_column: str | None = Field(
        default=None,
        description="column with the patient ID, or null; a report of another patient than its study is quarantined",
    )
    identifier_columns: tuple[str, ...] = Field(
        default=(),
        description="further columns that identify (patient_name, physician); their values are removed from the text",
    )

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if self.report_key == "patient_and_date" and not (self.patient_id_column and self.date_column):
            raise ValueError("report_key patient_and_date needs patient_id_column and date_column: name both")
        return self


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
