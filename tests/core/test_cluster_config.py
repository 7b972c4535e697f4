"""What jobs ask of a cluster, from one section that decides nothing about results."""

from pathlib import Path

import pytest

from glint.core.config.cluster import ClusterConfig, JobConfig, TrainJobConfig
from glint.core.config.schema import Config, read_config
from glint.core.reconcile import recipe_of

FOLDER = Path(__file__).resolve().parents[2] / "config"
STAGES = [name for name in Config.model_fields if name not in ("cohort", "cluster", "experiments")]


def test_every_stage_has_its_jobs() -> None:
    assert [name for name in STAGES if name not in ClusterConfig.model_fields] == []


@pytest.mark.parametrize("stage", STAGES)
def test_another_partition_memory_or_number_of_gpus_reruns_nothing(stage: str) -> None:
    changed = {"partition": "big", "account": "a", "growth": 0.5, stage: {"mem_mb": 99, "gpus": 2}}
    if stage == "train":
        changed[stage] = {**changed[stage], "nodes": 3}
    plain, other = read_config(FOLDER), read_config(FOLDER, {"cluster": changed})
    assert plain.cluster != other.cluster
    assert recipe_of(plain, stage, "ct") == recipe_of(other, stage, "ct") != None  # noqa: E711


def test_memory_and_time_grow_with_every_attempt_up_to_what_the_site_has() -> None:
    cluster = ClusterConfig(
        convert=JobConfig(mem_mb=1000, runtime_min=60), growth=1.0, mem_mb_max=2500, runtime_min_max=30
    )
    assert [cluster.mem_mb("convert", attempt) for attempt in (1, 2, 3, 4)] == [1000, 2000, 2500, 2500]
    assert [cluster.runtime_min("convert", attempt) for attempt in (1, 2)] == [60, 60], (
        "a limit never cuts what was asked"
    )
    steady = cluster.model_copy(update={"growth": 0.0})
    assert steady.mem_mb("convert", 4) == 1000


@pytest.mark.parametrize("stage", ["teacher", "train"])
def test_what_goes_on_from_a_saved_state_asks_for_no_more_when_it_was_preempted(stage: str) -> None:
    """It would outgrow every node: the second preemption of a training that asked for half a node found none."""
    cluster = ClusterConfig()
    assert cluster.mem_mb(stage, 4) == cluster.mem_mb(stage, 1)
    assert cluster.runtime_min(stage, 4) == cluster.runtime_min(stage, 1)


def test_a_stage_goes_to_its_own_partition_then_the_gpus_then_the_sites() -> None:
    cluster = ClusterConfig(
        partition="cpu",
        gpu_partition="gpu",
        teacher=TrainJobConfig(mem_mb=1, runtime_min=1, gpus=1),
        split=JobConfig(mem_mb=1, runtime_min=1, partition="short"),
    )
    assert [cluster.partition_of(stage) for stage in ("convert", "teacher", "split")] == ["cpu", "gpu", "short"]
    assert ClusterConfig().partition_of("convert") is None


def test_processes_of_training_are_one_per_gpu_unless_said() -> None:
    job = {"mem_mb": 1, "runtime_min": 1}
    assert TrainJobConfig(**job).ranks == 1
    assert TrainJobConfig(**job, gpus=4).ranks == 4
    assert TrainJobConfig(**job, gpus=4, ranks_per_node=2).ranks == 2
