"""Every public target plans its jobs from nothing and from empty files; bad configuration stops before that."""

import base64
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glint.cli.__main__ import COMMANDS, main

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = [*(f"{command}_ct" for command in COMMANDS), "train_cxr", "evaluate_cxr", "downstream_ct"]


def snakemake(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def planned(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert run.returncode == 0, run.stdout + run.stderr
    return {
        name: int(count) for name, count in re.findall(r"^([a-z_]+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_public_target_plans_from_nothing(tmp_path, target):
    jobs = planned(snakemake(tmp_path, "--dry-run", target))
    assert jobs["demo"] == 1 and jobs["total"] >= 2


def test_pretraining_has_a_target_of_its_own_that_refuses_loaded_weights(tmp_path):
    jobs = planned(snakemake(tmp_path, "--dry-run", "pretrain_teacher_ct"))
    assert jobs["teacher"] == 1 and "features" not in jobs
    loaded = ("--config", 'teacher={"ct":{"source":"path","location":"w"}}')
    refused = snakemake(tmp_path, "--dry-run", *loaded, "--", "pretrain_teacher_ct")
    assert refused.returncode != 0
    assert "nothing is pretrained" in refused.stdout + refused.stderr


def test_with_an_online_teacher_nothing_plans_a_feature_cache(tmp_path):
    online = ("--config", 'teacher={"ct":{"features":"online"}}')
    shown = ("--dry-run", "--printshellcmds", "--quiet", "host")
    plan = snakemake(tmp_path, *shown, *online, "--", "evaluate_ct")
    jobs = planned(plan)
    assert "features" not in jobs and jobs["train"] == 2
    assert "--features" not in plan.stdout
    assert "--teacher results/ct/07_teacher" in plan.stdout
    alone = snakemake(tmp_path, "--dry-run", *online, "--", "features_ct")  # what DVC's stage 08 asks for
    assert alone.returncode == 0 and "features" not in planned(alone)


def films(tmp_path: Path, more: str = "") -> list[str]:
    (tmp_path / "films").mkdir()
    table = more or ',"report_table":null'
    return [
        "--config",
        f'index={{"cxr":{{"raw_dirs":["films"],"num_shards":3{table}}}}}',
        "deidentify={key_file: null}",
    ]


def test_films_plan_from_index_to_split_with_shards_of_their_own_and_no_job_of_ct(tmp_path):
    targets = [f"{stage}_cxr" for stage in ("index", "deidentify", "convert", "resample", "split")]
    jobs = planned(snakemake(tmp_path, "--dry-run", *films(tmp_path), "--", *targets))
    assert jobs["index_images_cxr"] == 1 and not {"demo", "index_images", "index_reports_cxr"} & set(jobs)
    assert jobs["convert"] == jobs["resample"] == jobs["deidentify_images"] == 3


def test_films_with_reports_plan_their_sections(tmp_path):
    (tmp_path / "reports.csv").write_text("accession_number,report\n")
    more = ',"report_table":"reports.csv"'
    shown = ("--dry-run", "--printshellcmds", "--quiet", "host")
    plan = snakemake(tmp_path, *shown, *films(tmp_path, more), "--", "sections_cxr")
    jobs = planned(plan)
    assert jobs["index_reports_cxr"] == 1 and jobs["sections"] == 3
    assert plan.stdout.count("glint sections") == plan.stdout.count("--model-cache state/cxr/05_sections ") == 3


def test_where_no_film_is_named_their_targets_make_nothing_and_say_which_key_names_them(tmp_path):
    named = ["--config", 'index={"cxr":{"raw_dirs":[],"report_table":null}}', "--"]
    run = snakemake(tmp_path, "--dry-run", *named, "deidentify_cxr", "split_cxr", "evaluate_cxr")
    assert planned(run) == {"deidentify_cxr": 1, "split_cxr": 1, "evaluate_cxr": 1, "total": 3}
    assert "index.cxr.raw_dirs names no folder" in run.stderr


def test_the_plan_is_a_job_per_shard_never_a_job_per_study(tmp_path):
    jobs = planned(snakemake(tmp_path, "--dry-run", "evaluate_ct"))
    assert jobs["convert"] == jobs["resample"] == jobs["features"] == jobs["deidentify_images"]
    assert jobs["convert"] <= 8


def pretend(folder: Path, *arguments: str, target: str = "evaluate_ct", revised: str = "") -> int:
    """Do the planned jobs of `folder` in their order, each with the receipt its rule would write.

    An output holds its own name, and `revised` says more where that is part of the name.
    """
    plan = snakemake(folder, "--dry-run", "--printshellcmds", "--quiet", "host", *arguments, "--", target)
    assert plan.returncode == 0, plan.stderr
    receipts = re.findall(r"python -m glint (receipt .*) \) > logs", plan.stdout + plan.stderr)
    for receipt in receipts:
        words = shlex.split(receipt)
        start = words.index("--outputs") + 1
        for output in words[start : words.index("--log")]:
            (folder / output).parent.mkdir(parents=True, exist_ok=True)
            (folder / output).write_text(output + (" revised" if revised and revised in output else ""))
        with contextlib.chdir(folder):
            assert main(words) == 0
    return len(receipts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A workspace in which every output and receipt exists as if all stages had run."""
    folder = tmp_path_factory.mktemp("finished")
    assert pretend(folder) >= 20
    return folder


def test_a_finished_workspace_has_nothing_to_do(finished):
    run = snakemake(finished, "--dry-run", "evaluate_ct")
    assert "Nothing to be done" in run.stdout + run.stderr


PAGES = {"evaluation.html", "zero_shot.csv", "training.html", "cohort.html", "audit.html"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def snakemakes_report(finished, tmp_path_factory) -> Path:
    """`snakemake --report` of a finished workspace; a page holds its own name."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    made = snakemake(finished, "--report", str(out), "evaluate_ct")
    assert made.returncode == 0, made.stderr
    return out


def test_snakemakes_report_holds_every_page_with_its_caption_and_no_file_from_elsewhere(snakemakes_report):
    page = snakemakes_report.read_text()
    held = dict(re.findall(r'data:text/(?:html|csv);charset=utf8;filename=([a-z_]+\.[a-z]+);base64,([^"]+)"', page))
    assert held.keys() == PAGES
    assert base64.b64decode(held["evaluation.html"]) == b"results/ct/10_evaluate/pages/evaluation.html"
    assert not re.findall(r"""(?:src|href)\s*=\s*["']https?:""", page.split("<body", 1)[0])
    for told in ("Zero-shot classification, pointing and segmentation of the ct test split", "Names are pseudonyms"):
        assert told in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_snakemakes_report_opens_alone_in_a_browser_and_shows_the_evaluation(snakemakes_report, tmp_path):
    """A click on the category, then on the eye of the first page."""
    click = "setTimeout(() => document.querySelector('tbody a').click(), 800)"
    script = f"<script>setTimeout(() => {{ app.showCategory('Evaluation'); {click} }}, 400)</script>"
    clicked = tmp_path / "clicked.html"
    clicked.write_text(snakemakes_report.read_text() + script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--enable-logging=stderr", "--log-level=0", f"--user-data-dir={tmp_path / 'u'}", "--dump-dom"]
    options += ["--virtual-time-budget=6000", f"--log-net-log={tmp_path / 'net.json'}"]
    shown = subprocess.run(
        [BROWSER, *options, clicked.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line and "Error" in line]
    (frame,) = re.findall(r'<iframe src="data:text/html[^"]*;base64,([^"]+)"', shown.stdout)
    assert base64.b64decode(frame) == b"results/ct/10_evaluate/pages/evaluation.html"
    asked = re.findall(r'"url":"https?://([^/":]+)', (tmp_path / "net.json").read_text())
    own = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")  # the browser's own errands
    assert not [host for host in asked if not host.endswith(own)]


def test_scrambled_times_do_not_matter(finished):
    """After a checkout any file may be newer than any other."""
    files = sorted(path for path in finished.rglob("*") if path.is_file() and ".snakemake" not in path.parts)
    for number, path in enumerate(reversed(files)):
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    run = snakemake(finished, "--dry-run", "evaluate_ct")
    assert "Nothing to be done" in run.stdout + run.stderr


def test_a_changed_parameter_reruns_its_stage_and_what_follows_only(finished):
    jobs = planned(snakemake(finished, "--dry-run", "--config", 'evaluate={"ct":{"seed":99}}', "--", "evaluate_ct"))
    assert "train" not in jobs and "features" not in jobs and jobs["evaluate_models"] == 1
    jobs = planned(
        snakemake(finished, "--dry-run", "--config", 'resample={"ct":{"pad_hu":-1023}}', "--", "evaluate_ct")
    )
    assert jobs["resample"] >= 1 and "convert" not in jobs and "deidentify_images" not in jobs and jobs["train"] == 2


def test_an_edit_of_the_resampling_code_reruns_stage_four_and_what_follows_not_two(finished, tmp_path):
    shutil.copytree(REPOSITORY / "glint", tmp_path / "glint", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "glint" / "prepare" / "resample.py").open("a") as source:
        source.write("# edited\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    jobs = planned(snakemake(finished, "--dry-run", "evaluate_ct", environment=environment))
    assert jobs["resample"] >= 1 and jobs["features"] >= 1 and jobs["train"] == 2
    assert not {
        "demo",
        "index_images",
        "deidentify_images",
        "deidentify_reports",
        "convert",
        "sections",
        "split",
    } & set(jobs)


def test_a_report_corrected_after_indexing_touches_one_shard_of_each_stage_of_reports(finished):
    """The index first, since only then is it known which shard holds the report."""
    table = finished / "restricted" / "ct" / "00_demo" / "reports.csv"
    table.write_text("accession_number,report\nA1,a word changed\n")
    assert pretend(finished, target="index_ct", revised="reports/shard-001/") == 1
    jobs = planned(snakemake(finished, "--dry-run", "evaluate_ct"))
    assert jobs["deidentify_reports"] == jobs["sections"] == 1
    assert not {"deidentify_images", "convert", "resample", "split", "teacher", "features"} & set(jobs)


def test_a_corrected_report_reruns_the_path_of_reports_and_no_image_stage(finished):
    """Last of this workspace: the table stays changed."""
    table = finished / "restricted" / "ct" / "00_demo" / "reports.csv"
    time.sleep(0.1)
    table.write_text("accession_number,report\nA1,corrected\n")
    jobs = planned(snakemake(finished, "--dry-run", "evaluate_ct"))
    assert {"index_reports", "deidentify_reports", "sections", "train", "evaluate_models"} <= set(jobs)
    images = {"demo", "index_images", "deidentify_images", "convert", "resample", "split", "teacher", "features"}
    assert not images & set(jobs)


def test_the_restricted_folder_is_its_owners_alone(tmp_path):
    (tmp_path / "restricted").mkdir(mode=0o755)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    config = ("--config", 'demo={"studies":1,"defects":false}', "--", "demo_ct")
    run = snakemake(tmp_path, *config, environment={**os.environ, "PATH": path})
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "restricted" / "ct" / "00_demo" / "summary.json").is_file()
    assert (tmp_path / "restricted").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ('train={"ct":{"learning_rat":0.1}}', "train.ct.learning_rat"),
        ('resample={"ct":{"grid":"large"}}', "resample.ct.grid"),
        ('resample={"ct":{"grid":[55,56,72]}}', "no multiple of teacher.ct.encoder.patch"),
        ("cohort=no_such_cohort", "no_such_cohort"),
        ("trian=1", "trian"),
    ],
)
def test_a_wrong_key_stops_before_the_plan_with_one_line_that_names_it(tmp_path, override, key):
    run = snakemake(tmp_path, "--dry-run", "--config", override, "--", "train_ct")
    assert run.returncode != 0
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("glint:")]
    assert len(lines) == 1 and key in lines[0]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("target", ["deidentify_ct", "audit_ct", "train_ct"])
def test_a_normal_run_audits_its_deidentification(tmp_path, target):
    jobs = planned(snakemake(tmp_path, "--dry-run", target))
    assert jobs["deidentify_audit"] == 1
