"""Configuration of stage 02, the last one to see identifiers."""

from typing import Literal

from pydantic import Field

from glint.core.config.base import StageConfig


class DeidentifyConfig(StageConfig):
    """What is kept beyond the Basic Profile, and where the secret key lies."""

    key_file: str | None = Field(
        default=None,
        description="path outside the repository; the key of all pseudonyms; $GLINT_DEID_KEY_FILE wins over it; {modality} in "
        "it stands for ct or cxr (the demo alone, whose archives share one key)",
    )
    create_key_if_missing: bool = Field(
        default=False, description="make a random key on first use; for the demo only, a lost key can't be remade"
    )
    retain_modified_dates: bool = Field(
        default=True,
        description="shift dates by whole weeks per patient and keep times (code 113107); off: remove or empty them",
    )
    retain_patient_characteristics: bool = Field(
        default=True, description="keep age (90 and over as 090Y), sex, size and weight (code 113108); off: remove them"
    )
    retain_device_identity: bool = Field(
        default=False, description="keep station name, serial numbers and detector ids (code 113109); UIDs never stay"
    )
    retain_safe_private: bool = Field(
        default=False,
        description="keep listed private numbers such as pitch and DLP, by creator and element (code 113111)",
    )
    clean_descriptors: bool = Field(
        default=False,
        description="keep the safe words of descriptions and protocol names (code 113105); off: remove or empty them",
    )
    clean_graphics: bool = Field(
        default=False, description="keep overlays that are filled regions, never text (code 113103); off: remove all"
    )
    day_first: bool = Field(
        default=False, description="read 03/04/2021 in reports as 3 April; off: as March 4; others decide by themselves"
    )
    burned_in: Literal["blank", "quarantine"] = Field(
        default="blank",
        description="text found in pixels: blank its boxes, or refuse the series; markers such as L and R are text too",
    )
    find_text: Literal["suspects", "all", "none"] = Field(
        default="suspects",
        description="run the text detector on radiographs and CT slices with sharp marks at the rim; all: every image",
    )
    refuse_heads: bool = Field(
        default=True, description="refuse CT of a head, whatever its header says: a face can be rebuilt from it"
    )
    ner_model: str | None = Field(
        default=None,
        description="folder or hub id of a token classifier that adds names to what the rules find in reports; null: "
        "rules only. Needs torch and transformers",
    )
    ner_min_score: float = Field(
        default=0.5, gt=0, le=1, description="probability from which a stretch found by ner_model is replaced"
    )
    audit_series: int | None = Field(
        default=200,
        ge=0,
        description="series per shard that the audit compares with their raw files, file by file, drawn by their pseudonyms; "
        "null: all. Reports, refused series and blanked images are all audited",
    )
