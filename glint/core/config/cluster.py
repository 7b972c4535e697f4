"""What jobs ask of a cluster. No stage's results depend on it, so no recipe and no receipt holds it."""

from pydantic import Field

from glint.core.config.base import StageConfig


class JobConfig(StageConfig):
    """One job of a stage: a shard, or the stage as a whole where it isn't cut."""

    mem_mb: int = Field(ge=1, description="MB per node at the first attempt; grows with every further one")
    runtime_min: int = Field(ge=1, description="minutes at the first attempt, then as growth says")
    gpus: int = Field(default=0, ge=0, description="GPUs per node")
    partition: str | None = Field(default=None, description="name; null: the section's gpu_partition or partition")
    growth: float | None = Field(
        default=None,
        ge=0,
        description="null: the section's; 0 where a further attempt goes on from a saved state, since preemption asks for "
        "neither memory nor time",
    )


class TrainJobConfig(JobConfig):
    """Pretraining and training, which may be shared by several processes and nodes."""

    nodes: int = Field(default=1, ge=1, description="nodes of one job, on a cluster only")
    ranks_per_node: int | None = Field(
        default=None,
        ge=1,
        description="processes that share a step; null: one per GPU, one without; divides batch_size",
    )

    @property
    def ranks(self) -> int:
        """Processes per node."""
        return self.ranks_per_node or max(1, self.gpus)


class ClusterConfig(StageConfig):
    """Where jobs go and what they ask for. Measured on nothing larger than the demo: check against your first shard."""

    account: str | None = Field(default=None, description="name that jobs are charged to; null: the cluster's default")
    partition: str | None = Field(default=None, description="name of the queue; null: the cluster's default")
    gpu_partition: str | None = Field(default=None, description="name of the queue of jobs with GPUs; null: partition")
    growth: float = Field(
        default=1.0, ge=0, description="share of memory and time that each further attempt asks for in addition"
    )
    mem_mb_max: int | None = Field(default=None, ge=1, description="MB that the largest node has; growth ends there")
    runtime_min_max: int | None = Field(
        default=None, ge=1, description="minutes that the partition admits; growth ends there"
    )
    demo: JobConfig = Field(default=JobConfig(mem_mb=4000, runtime_min=60))
    index: JobConfig = Field(default=JobConfig(mem_mb=8000, runtime_min=720))
    deidentify: JobConfig = Field(default=JobConfig(mem_mb=8000, runtime_min=240))
    convert: JobConfig = Field(default=JobConfig(mem_mb=8000, runtime_min=240))
    resample: JobConfig = Field(default=JobConfig(mem_mb=8000, runtime_min=240))
    sections: JobConfig = Field(default=JobConfig(mem_mb=4000, runtime_min=60))
    split: JobConfig = Field(default=JobConfig(mem_mb=4000, runtime_min=30))
    teacher: TrainJobConfig = Field(default=TrainJobConfig(mem_mb=16000, runtime_min=1440, growth=0.0))
    features: JobConfig = Field(default=JobConfig(mem_mb=16000, runtime_min=480))
    train: TrainJobConfig = Field(default=TrainJobConfig(mem_mb=32000, runtime_min=1440, growth=0.0))
    evaluate: JobConfig = Field(default=JobConfig(mem_mb=16000, runtime_min=240))

    def job(self, stage: str) -> JobConfig:
        """The section of `stage`."""
        found: JobConfig = getattr(self, stage)
        return found

    def partition_of(self, stage: str) -> str | None:
        """Queue of `stage`'s jobs; None: the cluster's default."""
        job = self.job(stage)
        return job.partition or (self.gpu_partition if job.gpus else None) or self.partition

    def mem_mb(self, stage: str, attempt: int) -> int:
        """Memory of attempt 1, 2, …: what was killed for want of it gets more."""
        return self._grown(self.job(stage), self.job(stage).mem_mb, attempt, self.mem_mb_max)

    def runtime_min(self, stage: str, attempt: int) -> int:
        """Time of attempt 1, 2, …"""
        return self._grown(self.job(stage), self.job(stage).runtime_min, attempt, self.runtime_min_max)

    def _grown(self, job: JobConfig, first: int, attempt: int, largest: int | None) -> int:
        growth = self.growth if job.growth is None else job.growth
        grown = round(first * (1 + growth * (attempt - 1)))
        return grown if largest is None else max(first, min(grown, largest))
