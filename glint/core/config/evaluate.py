"""Configuration of stage 10: the truth, the prompts, what is measured and how surely."""

from string import Formatter
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from glint.core.config.base import StageConfig
from glint.core.config.benchmarks import load_benchmarks
from glint.core.config.downstream import DownstreamConfig
from glint.core.config.experiments import AblationConfig


class PromptConfig(StageConfig):
    """What the model is asked. Several templates form an ensemble: their scores and maps are averaged."""

    positive: tuple[str, ...] = Field(
        default=("There is {finding}.",),
        min_length=1,
        description="templates that state a finding; {finding} is its wording",
    )
    negative: tuple[str, ...] = Field(
        default=("There is no {finding}.",),
        min_length=1,
        description="templates that deny it; their score is subtracted",
    )
    sided: tuple[str, ...] = Field(
        default=("There is {side} {finding}.",),
        min_length=1,
        description="templates that name a side; {side} becomes left, then right, to see whether the map follows",
    )
    wording: dict[str, str] = Field(
        default={}, description="registry name to words of the prompt; a name left out becomes its words, _ as space"
    )

    @field_validator("positive", "negative", "sided")
    @classmethod
    def _ask_for_the_finding(cls, templates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        fields = {"side", "finding"} if info.field_name == "sided" else {"finding"}
        for template in templates:
            try:
                named = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
            except ValueError:
                named = set()
            if named != fields:
                told = " and ".join(f"{{{field}}}" for field in sorted(fields))
                raise ValueError(f"template {template!r} must hold {told} and no other field")
        return templates


class ProbeConfig(StageConfig):
    """The supervised yardstick: one logistic regression per finding on single tokens of the frozen teacher, with masks."""

    positive_fraction: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="share of a patch that a mask must fill for the patch to count as positive",
    )
    max_studies: int = Field(
        default=600, ge=1, description="training studies whose tokens are held in memory, a seeded draw beyond it"
    )
    max_patches: int = Field(
        default=40000,
        ge=1,
        description="patches it is fitted on; all that hold a finding, the others drawn and weighted",
    )
    ridges: tuple[float, ...] = Field(
        default=(1e-5, 1e-4, 1e-3),
        min_length=1,
        description="weights of the squared coefficients in the mean loss; per finding by validation patches",
    )
    iterations: int = Field(default=60, ge=1, description="L-BFGS iterations at most")
    pooled_patches: tuple[int, ...] = Field(
        default=(1, 3, 10, 30, 100),
        min_length=1,
        description="a study's score is the mean of its k highest patch logits; k by training and validation AUROC",
    )


class EvaluateConfig(StageConfig):
    """Stage 10."""

    truth_dir: str = Field(
        default="restricted/{modality}/00_demo/truth",
        description="folder with <study>.nii.gz bit fields on the scan's own grid, and findings.json (bit to finding); queries.csv beside them, if any, lists free sentences",
    )
    truth_ids: Literal["study_uid", "study_id"] = Field(
        default="study_uid", description="what names those files: the original Study Instance UID, or GLINT's pseudonym"
    )
    arms: tuple[str, ...] = Field(
        default=("glint", "global_pooling"),
        min_length=1,
        description="folders below 09_train; the first is the one reported on",
    )
    foreign_checkpoint: bool = Field(
        default=False, description="measure a checkpoint that was trained on other tables, as for an outside cohort"
    )
    split: Literal["test", "validation"] = Field(default="test", description="split that is measured")
    benchmark: str | None = Field(
        default=None,
        description="name of a published benchmark (docs/benchmarks.md), which sets positive, negative and wording of the prompts; "
        "null: they count as they stand",
    )
    prompts: PromptConfig = Field(default=PromptConfig(), description="sentences asked for every finding")
    mask_rule: Literal["likelihood", "posterior"] = Field(
        default="likelihood",
        description="logit of the map: likelihood leaves out the learned bias, the odds of any patch before it is looked at, so "
        "a mask says where and the score says whether; posterior keeps it, and opens what is likelier there than not",
    )
    mask_offset: float = Field(
        default=0.0,
        description="[c] logit added to the map before the fixed threshold of 0.5; 0 is as trained, and uses no mask",
    )
    empty_below_mass: float = Field(
        default=1.0,
        ge=0,
        description="[mu] reference patches; a mask with less gate mass is withdrawn, where that rule is used",
    )
    thresholds: int = Field(
        default=256, ge=2, description="logit thresholds searched for the calibrated and the oracle Dice"
    )
    body_above: float = Field(
        default=-500.0,
        description="HU; what is denser, holes filled slice by slice, is the body in which chance is counted",
    )
    false_positive_rate: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of images without the finding that may be called; the conformal cut-off of each finding, fitted on "
        "validation images without it, keeps to it",
    )
    surface_tolerance: float = Field(
        default=5.0,
        gt=0,
        description="mm; surface Dice counts a boundary this near as met; about one voxel of the model's grid",
    )
    erased_cases: int = Field(
        default=8,
        ge=0,
        description="positives per finding whose called patches are erased to see the score fall; 0 leaves this test out",
    )
    retrieval: bool = Field(default=True, description="rank studies by report and reports by study")
    ablation: AblationConfig = Field(default=AblationConfig(), description="comparison of experiments")
    probe: ProbeConfig = Field(default=ProbeConfig(), description="supervised yardstick")
    downstream: DownstreamConfig = Field(
        default=DownstreamConfig(), description="tasks on top of the encoder; targets downstream_<modality>"
    )
    batch_size: int = Field(default=8, ge=1, description="volumes encoded at a time")
    resamples: int = Field(default=1000, ge=10, description="bootstrap resamples of patients")
    interval: float = Field(default=0.95, gt=0, lt=1, description="share of the resamples that an interval holds")
    seed: int = Field(default=0, ge=0, description="seed of the bootstrap and of the probe's drawn patches")
    overlay_window: tuple[float, float] = Field(
        default=(-1350.0, 150.0), description="HU; what overlays show black and white"
    )
    overlay_cases: int = Field(
        default=3, ge=0, description="cases drawn per finding, from best to worst Dice; 0 draws none"
    )

    @model_validator(mode="after")
    def _benchmark(self) -> "EvaluateConfig":
        """The benchmark's prompts take the place of the defaults; other ones beside it are a contradiction."""
        if self.benchmark is None:
            return self
        known = load_benchmarks()
        if self.benchmark not in known:
            raise ValueError(f"no benchmark {self.benchmark!r}; known are {', '.join(known)}")
        asked, sided = known[self.benchmark], self.prompts.sided
        wanted = PromptConfig(positive=asked.positive, negative=asked.negative, wording=asked.wording, sided=sided)
        if self.prompts not in (PromptConfig(sided=sided), wanted):
            raise ValueError(f"benchmark {self.benchmark} sets the prompts: leave out positive, negative and wording")
        object.__setattr__(self, "prompts", wanted)  # the model is frozen for everybody else
        return self


class FilmEvaluateConfig(EvaluateConfig):
    """Stage 10 for films."""

    truth_dir: str = Field(
        default="restricted/{modality}/00_demo/truth",
        description="folder with <instance>.png bit fields (16 bits of grey, or 32 as RGBA) on the film's own pixels, and findings.json (bit to finding)",
    )
    truth_ids: Literal["study_uid", "study_id"] = Field(
        default="study_uid",
        description="what names those files: the original SOP Instance UID, or GLINT's pseudonym (study_id)",
    )
    body_above: float = Field(
        default=4000.0,
        description="16-bit grey; what is brighter, holes filled, is the body in which chance is counted",
    )
    surface_tolerance: float = Field(
        default=3.0, gt=0, description="pixels of the model's grid; surface Dice counts a boundary this near as met"
    )
    overlay_window: tuple[float, float] = Field(
        default=(0.0, 65535.0), description="16-bit grey; what overlays show black and white"
    )
