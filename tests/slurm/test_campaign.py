"""On a real Slurm: what is killed, hung, drained or preempted arrives at the same files as an undisturbed local run."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from campaign import FIRST_MEM_MB, GROWN_MEM_MB, Campaign, on_slurm, site
from lab import JobRecord, Lab

from glint.core.provenance import sha256_file

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
CHECKPOINT = Path("results/ct/09_train/glint")


def attempts(lab: Lab, comment: str) -> list[JobRecord]:
    return [job for job in lab.jobs(comment) if job.comment.endswith(comment)]


def curves(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def test_the_campaign_ends_with_a_checkpoint_and_everything_has_happened(campaign: Campaign) -> None:
    assert campaign.returncode == 0, campaign.said[-4000:]
    assert campaign.failures == []
    assert (campaign.folder / CHECKPOINT / "model.safetensors").is_file()


def test_a_job_killed_for_want_of_memory_comes_back_with_more(lab: Lab, campaign: Campaign) -> None:
    for shard in ("shard-000", "shard-001"):
        jobs = attempts(lab, f"rule_convert_wildcards_ct_{shard}")
        assert [job.mem_mb for job in jobs] == [FIRST_MEM_MB, GROWN_MEM_MB]
        assert jobs[0].state in ("OUT_OF_MEMORY", "FAILED") and jobs[1].state == "COMPLETED"
    logs = "".join(path.read_text() for path in campaign.folder.glob(".snakemake/slurm_logs/rule_convert/*/*.log"))
    assert re.search(r"exceeded.*memory|oom|memory limit", logs, re.IGNORECASE)


def test_a_job_that_hangs_is_ended_by_its_limit_and_comes_back_with_more_time(lab: Lab, campaign: Campaign) -> None:
    jobs = attempts(lab, "rule_sections_wildcards_ct_shard-001")
    assert [(job.state, job.limit) for job in jobs] == [("TIMEOUT", "2:00"), ("COMPLETED", "8:00")]


def test_jobs_wait_while_the_nodes_are_drained_and_run_after_that(lab: Lab, campaign: Campaign) -> None:
    assert campaign.running_while_drained == []
    assert campaign.waiting_while_drained
    for comment in campaign.waiting_while_drained:
        assert attempts(lab, comment)[-1].state == "COMPLETED"


def test_a_preempted_training_saves_leaves_and_goes_on(lab: Lab, campaign: Campaign) -> None:
    jobs = attempts(lab, "rule_train_wildcards_glint_ct") or attempts(lab, "rule_train_wildcards_ct_glint")
    assert len(jobs) == 2 and jobs[1].state == "COMPLETED"
    assert jobs[1].mem_mb == jobs[0].mem_mb, "preemption is no want of memory"
    urgent = attempts(lab, "urgent")
    assert [job.state for job in urgent] == ["COMPLETED"]
    assert jobs[0].number < urgent[0].number < jobs[1].number
    log = (campaign.folder / "logs/ct/09_train/glint.log").read_text()
    resumed = re.search(r"training goes on from step (\d+) of (\d+)", log)
    assert resumed is not None, log
    # Where SIGTERM comes while a regular save is written, the step is that save's; that it is the step of the signal otherwise,
    # `test_a_run_told_to_leave_says_where_it_stands_and_ends_in_the_same_bytes` shows.
    assert 40 <= int(resumed[1]) < int(resumed[2]) and "rule_train" in campaign.said


def test_the_curve_of_the_preempted_training_is_that_of_an_undisturbed_one(campaign: Campaign, local: Path) -> None:
    assert curves(campaign.folder / CHECKPOINT / "curves.csv") == curves(local / CHECKPOINT / "curves.csv")


def test_every_file_equals_that_of_a_local_run(campaign: Campaign, local: Path) -> None:
    """Oracle: the other run's bytes. The receipts of stage 02's images and audit alone differ, since they name the table of raw
    files with their absolute paths: two workspaces are two places.
    """
    by_place = ("results/ct/receipts/02_deidentify/images_", "results/ct/receipts/02_deidentify/audit")

    def content(folder: Path) -> dict[str, str]:
        kept = [path for path in (folder / "results").rglob("*") if path.is_file()]
        named = {path.relative_to(folder).as_posix(): path for path in kept}
        return {name: sha256_file(path) for name, path in named.items() if not name.startswith(by_place)}

    there, here = content(campaign.folder), content(local)
    assert len(there) > 100
    assert {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)} == set()


def test_two_nodes_share_a_training_and_follow_the_curve_of_one(lab: Lab, campaign: Campaign, tmp_path: Path) -> None:
    """srun starts torchrun on both nodes; the sums are ordered otherwise, so the first steps agree and later ones drift."""
    snakefile = site(tmp_path / "site", {"cluster": {"train": {"nodes": 2, "ranks_per_node": 1}}})
    alone = curves(campaign.folder / CHECKPOINT / "curves.csv")
    shutil.copytree(campaign.folder, tmp_path / "work", ignore=shutil.ignore_patterns(".snakemake", "09_train"))
    done = on_slurm(snakefile, tmp_path / "work", "train_ct")
    assert done.returncode == 0, done.stdout[-4000:]
    assert lab.jobs("rule_train")[-1].nodes == 2
    assert "shared by 2 processes" in (tmp_path / "work/logs/ct/09_train/glint.log").read_text()
    shared = curves(tmp_path / "work" / CHECKPOINT / "curves.csv")
    assert len(shared) == len(alone)
    for row, expected in zip(shared[:20], alone[:20], strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
