"""Receipts decide what is stale: content, configuration and code, never time."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from glint.core import receipts
from glint.core import reconcile as reconciling
from glint.core.config.schema import read_config
from glint.core.errors import InputError
from glint.core.receipts import identity_of_output, receipt_path, write_receipt
from glint.core.reconcile import STALE_S, judge, recipe_of, reconcile
from glint.core.sums import write_sums

CONFIG = read_config(Path(__file__).resolve().parents[2] / "config")
CHANGED = read_config(Path(__file__).resolve().parents[2] / "config", {"convert": {"ct": {"min_slices": 17}}})


def job(stage: str, inputs: list[str], content: dict[str, str], *, shard: str = "shard-000") -> str:
    """Pretend that a job of `stage` ran: write its folder and its receipt; returns the declared output."""
    folder = Path("results", "ct", stage, shard)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    output, noun = str(folder / "manifest.parquet"), stage[3:]
    recipe = recipe_of(CONFIG, noun, "ct")
    assert recipe is not None
    place = receipt_path(output, f"logs/ct/{stage}/{shard}.log")
    write_receipt(stage=noun, modality="ct", recipe=recipe, inputs=inputs, outputs=[output], to=place)
    return output


@pytest.fixture
def chain(tmp_path, monkeypatch) -> tuple[str, str, str]:
    """Raw table → convert → resample, each one job."""
    monkeypatch.chdir(tmp_path)
    Path("raw.csv").write_text("one")
    first = job("03_convert", ["raw.csv"], {"manifest.parquet": "rows", "volume.nii.gz": "voxels"})
    second = job("04_resample", [first], {"manifest.parquet": "rows of 04"})
    return "raw.csv", first, second


def stale(config=CONFIG) -> dict[str, str]:
    return {path.parent.name: reason for path, reason in judge(Path(), config)[1].stale.items()}


def age(path: str, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_what_was_just_made_stands(chain):
    _, verdict = judge(Path(), CONFIG)
    assert verdict.stale == {} and verdict.num_fresh == 2


def test_times_scrambled_by_a_checkout_are_put_in_order_and_contents_left_alone(chain):
    raw, first, second = chain
    for path, seconds in ((raw, 3_000.0), (first, 2_000.0), (second, 1_000.0)):
        age(path, seconds)
    before = Path(first).read_bytes()
    assert reconcile(Path(), CONFIG).stale == {}
    raw_s, first_s, second_s = (os.stat(path).st_mtime for path in chain)
    assert raw_s <= first_s <= second_s and Path(first).read_bytes() == before


def test_the_benchmark_table_keeps_up_with_the_outputs(chain):
    """Snakemake compares inputs with the oldest of outputs and benchmark table."""
    raw, _, _ = chain
    table = Path("logs/ct/03_convert/shard-000.benchmark.tsv")
    table.parent.mkdir(parents=True)
    table.write_text("s\n1\n")
    age(str(table), 1_000.0)
    age(raw, 3_000.0)
    reconcile(Path(), CONFIG)
    assert table.stat().st_mtime >= 3_000


def test_a_second_reconcile_touches_nothing(chain):
    raw, first, second = chain
    age(raw, 3_000.0), age(first, 2_000.0), age(second, 1_000.0)
    reconcile(Path(), CONFIG)
    times = [os.stat(path).st_mtime_ns for path in chain]
    reconcile(Path(), CONFIG)
    assert [os.stat(path).st_mtime_ns for path in chain] == times


def test_an_output_that_is_newer_than_its_changed_input_is_stale_all_the_same(chain):
    """A pull after an edit leaves old outputs with new times; times alone would call them up to date."""
    raw, first, second = chain
    Path(raw).write_text("two")
    age(raw, 1_000.0)
    assert list(reconcile(Path(), CONFIG).stale.values()) == ["an input changed"]
    assert os.stat(first).st_mtime == STALE_S and os.stat(second).st_mtime > 1_000


def test_a_changed_value_makes_its_own_stage_stale_and_taking_it_back_makes_it_stand_again(chain):
    _, first, _ = chain
    assert stale(CHANGED) == {"03_convert": "configuration changed"}
    reconcile(Path(), CHANGED)
    assert os.stat(first).st_mtime == STALE_S
    reconcile(Path(), CONFIG)
    assert stale() == {} and os.stat(first).st_mtime > STALE_S


def test_another_number_of_shards_makes_every_stage_stale(chain):
    more = read_config(Path(__file__).resolve().parents[2] / "config", {"index": {"ct": {"num_shards": 9}}})
    assert set(stale(more)) == {"03_convert", "04_resample"}


def test_changed_code_makes_its_stage_stale_and_a_remade_equal_result_stops_there(chain, monkeypatch):
    raw, _, _ = chain
    known = reconciling.code_digest
    monkeypatch.setattr(reconciling, "code_digest", lambda module: "edited" if "convert" in module else known(module))
    assert stale() == {"03_convert": "code changed"}
    job("03_convert", [raw], {"manifest.parquet": "rows", "volume.nii.gz": "voxels"})
    assert stale() == {}


def test_a_changed_file_beside_the_manifest_reaches_the_consumer(chain):
    """The manifest may keep its bytes while a volume does not."""
    raw, _, _ = chain
    job("03_convert", [raw], {"manifest.parquet": "rows", "volume.nii.gz": "other voxels"})
    assert stale() == {"04_resample": "an input changed"}


def test_an_output_of_another_revision_is_found_out(chain):
    _, first, _ = chain
    Path(first).write_text("rows of another revision")
    assert stale() == {"03_convert": "an output is not what the job made"}


def test_an_absent_output_is_stale_and_an_absent_input_is_not(chain):
    raw, _, second = chain
    Path(raw).unlink()
    assert stale() == {}
    Path(second).unlink()
    assert stale() == {"04_resample": "an output is absent"}


def test_a_linked_output_gets_its_time_on_the_link_too(chain):
    """Under a symlink cache Snakemake looks at the link's own time."""
    _, first, _ = chain
    Path("cache").write_bytes(Path(first).read_bytes())
    Path(first).unlink()
    Path(first).symlink_to(Path("cache").resolve())
    reconcile(Path(), CHANGED)
    assert os.lstat(first).st_mtime == STALE_S


def test_outputs_that_refuse_a_new_time_are_named_and_nothing_fails(chain, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(reconciling.os, "utime", refuse)
    assert [str(path) for path in reconcile(Path(), CHANGED).unstamped] == [chain[1]]
    assert reconcile(Path(), CONFIG).unstamped == []


def test_equal_work_gives_equal_receipts(chain):
    place = Path("results/ct/receipts/04_resample/shard-000.json")
    before = place.read_bytes()
    job("04_resample", [chain[1]], {"manifest.parquet": "rows of 04"})
    assert place.read_bytes() == before


def test_receipts_of_restricted_outputs_stay_restricted():
    log = "logs/ct/01_index/images.log"
    assert receipt_path("restricted/ct/01_index/a.parquet", log).parts[0] == "restricted"
    assert receipt_path("results/ct/03_convert/s/m.parquet", "logs/ct/03_convert/s.log") == Path(
        "results/ct/receipts/03_convert/s.json"
    )


def test_files_in_the_making_are_not_part_of_what_a_job_made(tmp_path):
    (tmp_path / "manifest.parquet").write_text("rows")
    before = identity_of_output(tmp_path / "manifest.parquet", alone=True)
    (tmp_path / ".volume.nii.gz.tmp.7").write_text("half")
    assert identity_of_output(tmp_path / "manifest.parquet", alone=True) == before


def test_what_a_job_noted_of_its_files_is_not_hashed_again_and_says_the_same(tmp_path, monkeypatch):
    (tmp_path / "manifest.parquet").write_text("rows")
    volumes = [tmp_path / "volumes" / f"{name}.nii" for name in ("a", "b")]
    volumes[0].parent.mkdir()
    for volume in volumes:
        volume.write_text(f"voxels of {volume.name}")

    def identity(sums: dict[str, str]) -> str:
        write_sums(tmp_path, sums)
        return identity_of_output(tmp_path / "manifest.parquet", alone=True)

    of = {f"volumes/{volume.name}": hashlib.sha256(volume.read_bytes()).hexdigest() for volume in volumes}
    read: list[str] = []
    known = receipts.sha256_file
    monkeypatch.setattr(receipts, "sha256_file", lambda path: read.append(path.name) or known(path))
    noted = identity(of)
    assert sorted(read) == ["manifest.parquet", "sha256.txt"]
    assert identity({**of, "volumes/a.nii": "0" * 64}) != noted
    assert identity({"volumes/a.nii": of["volumes/a.nii"]}) != noted, "what was noted is part of what was made"
    assert read.count("b.nii") == 1


def test_a_torn_receipt_counts_as_none(chain):
    Path("results/ct/receipts/04_resample/shard-000.json").write_text('{"stage": "resam')
    _, verdict = judge(Path(), CONFIG)
    assert verdict.num_fresh == 1 and verdict.stale == {}


def test_no_receipt_for_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(CONFIG, "convert", "ct")
    assert recipe is not None
    with pytest.raises(InputError, match="no such output"):
        write_receipt(stage="convert", modality="ct", recipe=recipe, inputs=[], outputs=["x/y"], to=Path("r.json"))


def test_an_unknown_stage_has_no_recipe():
    assert recipe_of(CONFIG, "no_such_stage", "ct") is None and recipe_of(CONFIG, "convert", "mr") is None


def test_an_edited_table_of_the_demo_is_raw_input_and_reaches_its_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, reports = "restricted/ct/00_demo/reports.csv", "restricted/ct/01_index/reports/shard-000/reports.parquet"
    for stage, inputs, output in (("demo", [], table), ("index", [table], reports)):
        Path(output).parent.mkdir(parents=True)
        Path(output).write_text("first")
        recipe = recipe_of(CONFIG, stage, "ct")
        assert recipe is not None
        to = Path(f"restricted/ct/receipts/{stage}/job.json")
        write_receipt(stage=stage, modality="ct", recipe=recipe, inputs=inputs, outputs=[output], to=to)
    assert stale() == {}
    Path(table).write_text("corrected")
    assert stale() == {"index": "an input changed"}


def test_a_receipt_holds_no_time(chain):
    value = json.loads(Path("results/ct/receipts/03_convert/shard-000.json").read_text())
    assert set(value) == {"stage", "modality", "recipe", "inputs", "outputs", "files"}
