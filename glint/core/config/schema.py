"""The whole configuration: every stage's section, the overlay of a cohort, one-line errors.

`config/config.yaml` holds every key with its unit and reason. Its `cohort` names a file beside it
(`config/<cohort>.yaml`) that is laid over it: mappings merge, everything else is replaced.
"""

import json
import re
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from glint.core.config.base import StageConfig
from glint.core.config.cluster import ClusterConfig
from glint.core.config.convert import ConvertConfig, FilmConvertConfig
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.config.demo import DemoConfig
from glint.core.config.evaluate import EvaluateConfig, FilmEvaluateConfig
from glint.core.config.experiments import Experiment, run_of
from glint.core.config.families import FAMILIES, published_at
from glint.core.config.features import FeaturesConfig
from glint.core.config.grids import GRID_PRESETS, WINDOWS_HU
from glint.core.config.index import FilmIndexConfig, IndexConfig
from glint.core.config.resample import FilmResampleConfig, ResampleConfig
from glint.core.config.sections import SectionsConfig
from glint.core.config.split import SplitConfig
from glint.core.config.teacher import FilmTeacherConfig, TeacherConfig
from glint.core.config.train import FilmTrainConfig, TrainConfig
from glint.core.errors import ConfigError

Section = TypeVar("Section", bound=StageConfig)
FilmSection = TypeVar("FilmSection", bound=StageConfig)
MODALITIES = ("ct", "cxr")


class ByModality(StageConfig):
    """A section whose values depend on what the images are; its fields are the modalities that the stage knows."""


class PerImageKind(ByModality, Generic[Section, FilmSection]):
    """A stage that works on volumes and on films, each with a configuration of its own."""

    ct: Section = Field(description="computed tomography")
    cxr: FilmSection = Field(description="chest X-ray films")


class Config(StageConfig):
    """Every stage's section, in the order of the pipeline, then what jobs ask of a cluster."""

    cohort: str = Field(description="name; the overlay config/<cohort>.yaml, or 'none' for config.yaml alone")
    demo: DemoConfig
    index: PerImageKind[IndexConfig, FilmIndexConfig]
    deidentify: DeidentifyConfig
    convert: PerImageKind[ConvertConfig, FilmConvertConfig]
    resample: PerImageKind[ResampleConfig, FilmResampleConfig]
    sections: SectionsConfig
    split: SplitConfig
    teacher: PerImageKind[TeacherConfig, FilmTeacherConfig]
    features: PerImageKind[FeaturesConfig, FeaturesConfig]
    train: PerImageKind[TrainConfig, FilmTrainConfig]
    evaluate: PerImageKind[EvaluateConfig, FilmEvaluateConfig]
    cluster: ClusterConfig
    experiments: dict[str, Experiment] = Field(
        default={}, exclude=True, description="the files of config/experiments, by name"
    )

    @model_validator(mode="after")
    def _combinations(self) -> "Config":
        for modality in MODALITIES:
            own = [path for path in getattr(self.index, modality).raw_dirs if "/00_demo/" not in path]
            if own and "/00_demo/" in (self.deidentify.key_file or ""):
                # The demo's key follows from its public seed: whoever knows it can undo the pseudonyms.
                raise ValueError(
                    f"deidentify.key_file is the demo's key but index.{modality}.raw_dirs {own} is not the demo: "
                    "remove key_file and set GLINT_DEID_KEY_FILE to a key of your own"
                )
        for modality in modalities_of("teacher"):
            check_teacher(
                modality,
                getattr(self.teacher, modality),
                tuple(getattr(self.resample, modality).grid),
                features=getattr(self.features, modality),
                train=getattr(self.train, modality),
            )
            preset = getattr(getattr(self.resample, modality), "preset", None)  # films have no named grids
            check_windows(modality, getattr(self.teacher, modality), preset)
        return self


def check_teacher(
    modality: str, teacher: TeacherConfig, grid: tuple[int, ...], *, features: FeaturesConfig, train: TrainConfig
) -> None:
    """Raises ValueError where the volumes don't fit the teacher's patches, or blocks are asked for that published weights have not."""
    patch, family = teacher.encoder.patch, FAMILIES[teacher.name]
    where = f"teacher.{modality}.encoder.patch {tuple(patch)}"
    if teacher.source != "pretrain" and family.patch_zyx is not None:
        patch, where = family.patch_zyx, f"the patch {family.patch_zyx} of {teacher.name}"
        patch = (1, *patch[1:]) if grid[0] == 1 else patch  # a single slice has patches of one slice
        if family.square and grid[1] != grid[2]:
            raise ValueError(f"resample.{modality}.grid {grid}: {teacher.name} takes square slices")
    if any(size % edge for size, edge in zip(grid, patch, strict=True)):
        raise ValueError(f"resample.{modality}.grid {grid} is no multiple of {where}")
    known = published_at(teacher.location) if teacher.source != "pretrain" and teacher.location else None
    if known is not None:
        for key, blocks in (("features", features.layers), ("train", train.loss.dense_blocks)):
            if beyond := [block for block in blocks if block >= known[1].depth]:
                name = "layers" if key == "features" else "loss.dense_blocks"
                raise ValueError(
                    f"{key}.{modality}.{name}: {known[0]} has blocks 0 to {known[1].depth - 1}, not {beyond}"
                )


def check_windows(modality: str, teacher: TeacherConfig, preset: str | None) -> None:
    """A published teacher on a named grid gets the windows that belong to it.

    Raises:
        ValueError: it gets others.
    """
    named = GRID_PRESETS[preset].windows if preset is not None else ()
    if teacher.source != "pretrain" and named and teacher.windows != tuple(WINDOWS_HU[one] for one in named):
        raise ValueError(
            f"teacher.{modality}.windows {tuple(teacher.windows)} are not those of resample.{modality}.preset "
            f"{preset}: set them to [{', '.join(named)}], or name spacing_mm and grid instead of the preset"
        )


def modalities_of(stage: str) -> tuple[str, ...]:
    """The modalities that a stage works on: those its section names, or all where its section names none."""
    section = Config.model_fields[stage].annotation
    named = isinstance(section, type) and issubclass(section, ByModality)
    return tuple(section.model_fields) if named else MODALITIES  # type: ignore[union-attr]


def overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: mappings merge key by key, every other value is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = overlay(merged[key], value)
        else:
            merged[key] = value
    return merged


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: PyYAML reads `1e-5`, without a point, as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(entry.stem for entry in path.parent.glob("*.yaml"))
        raise ConfigError(f"{path}: no such configuration file; {path.parent} has {', '.join(known)}")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must be a mapping of sections")
    return value


def _plain(value: Any) -> Any:
    """Values given on the command line: Snakemake hands the leaves of nested values over as text."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return yaml.load(value, _Loader) if isinstance(value, str) else value


def read_config(folder: Path | str, overrides: dict[str, Any] | None = None) -> Config:
    """Read `config.yaml` of `folder`, lay the cohort's file and `overrides` over it, validate all.

    Raises:
        ConfigError: one line that names the first wrong key.
    """
    base = _read_yaml(Path(folder) / "config.yaml")
    given = _plain(overrides or {})
    cohort = given.get("cohort", base.get("cohort"))
    if cohort != "none":
        base = overlay(base, _read_yaml(Path(folder) / f"{cohort}.yaml"))
    merged = overlay(base, {**given, "cohort": cohort})
    merged["experiments"] = {
        path.stem: _read_yaml(path) for path in sorted((Path(folder) / "experiments").glob("*.yaml"))
    }
    try:
        config = Config.model_validate_json(json.dumps(merged))
        for name in config.experiments:
            for modality in modalities_of("train"):
                train_slice(config, modality, name)
        return config
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "combination"
        shown = "" if first["type"] == "value_error" else f" (value: {str(first.get('input'))[:60]!r})"
        raise ConfigError(f"config: {key}: {first['msg']}{shown}") from error


def stage_slice(config: Config, stage: str, modality: str) -> dict[str, Any]:
    """The plain values of one stage's section for one modality: what its command and its receipt see.

    `{modality}` in a text stands for the modality.
    """
    section = getattr(config, stage)
    if isinstance(section, ByModality):
        section = getattr(section, modality)
    value: dict[str, Any] = json.loads(section.model_dump_json().replace("{modality}", modality))
    return value


def train_slice(config: Config, modality: str, run: str) -> dict[str, Any]:
    """The plain values of one training run: `glint`, another experiment, or an experiment's run of a seed, `no_null-s1`.

    Raises:
        ConfigError: no such experiment, or its values do not fit the section `train`.
    """
    try:
        name, seed = run_of(run)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if name not in config.experiments:
        known = ", ".join(sorted(config.experiments)) or "none"
        raise ConfigError(f"config/experiments/{name}.yaml: no such experiment; there are {known}")
    section = getattr(config.train, modality)
    value: dict[str, Any] = section.model_dump(mode="json")
    if seed is not None:
        ablation = getattr(config.evaluate, modality).ablation
        shorter = {key: getattr(ablation, key) for key in ("head_steps", "steps") if getattr(ablation, key) is not None}
        if ablation.encoder_learning_rate is not None:
            shorter["optimizer"] = {"encoder_learning_rate": ablation.encoder_learning_rate}
        value = overlay(value, {**shorter, "seed": seed})
    try:
        checked = type(section).model_validate_json(json.dumps(overlay(value, config.experiments[name].train)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "combination"
        raise ConfigError(f"config/experiments/{name}.yaml: train.{key}: {first['msg']}") from error
    plain: dict[str, Any] = checked.model_dump(mode="json")
    return plain


def ablation_runs(config: Config, modality: str) -> tuple[str, ...]:
    """Every run of the comparison, the method's first."""
    ablation = getattr(config.evaluate, modality).ablation
    chosen = ablation.experiments or tuple(config.experiments)
    names = sorted(chosen, key=lambda name: (config.experiments[name].kind != "method", name))
    return tuple(f"{name}-s{seed}" for name in names for seed in ablation.seeds)
