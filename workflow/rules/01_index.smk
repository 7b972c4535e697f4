rule index_images:
    """Raw DICOM folders -> studies, series, instances and what is quarantined, by header alone."""
    input:
        raw_images,
    output:
        studies="restricted/{modality}/01_index/images/studies.parquet",
        shards=update(
            [
                f"restricted/{{modality}}/01_index/images/{shard}/{table}.parquet"
                for shard in SHARDS["ct"]
                for table in ("studies", "series", "instances")
            ]
        ),
    log:
        "logs/{modality}/01_index/images.log",
    benchmark:
        "logs/{modality}/01_index/images.benchmark.tsv"
    wildcard_constraints:
        modality="ct",
    threads: 2
    resources:
        **job("index"),
    params:
        config=slice_json("index"),
        recipe=recipe("index"),
        out=subpath(output.studies, parent=True),
        key=key_argument,
    shell:
        recorded(
            "python -m glint index images --modality {wildcards.modality} --out {params.out} {params.key} "
            "--workers {threads} --config {params.config:q}"
        )


rule index_reports:
    """Report table + indexed studies -> one report per study, or the reason why not."""
    input:
        studies="restricted/{modality}/01_index/images/studies.parquet",
        table=lambda wildcards: section("index", wildcards.modality).report_table,
    output:
        shards=update(
            [
                f"restricted/{{modality}}/01_index/reports/{shard}/reports.parquet"
                for shard in SHARDS["ct"]
            ]
        ),
    log:
        "logs/{modality}/01_index/reports.log",
    benchmark:
        "logs/{modality}/01_index/reports.benchmark.tsv"
    wildcard_constraints:
        modality="ct",
    resources:
        **job("index"),
    params:
        config=slice_json("index"),
        recipe=recipe("index"),
    shell:
        recorded(
            "python -m glint index reports --modality {wildcards.modality} --images $(dirname {input.studies}) "
            "--out restricted/{wildcards.modality}/01_index/reports --config {params.config:q}"
        )


# The tables are one per shard, and a rule's outputs can't depend on its wildcards: films may have other shards than CT.
use rule index_images as index_images_cxr with:
    output:
        studies="restricted/{modality}/01_index/images/studies.parquet",
        shards=update(
            [
                f"restricted/{{modality}}/01_index/images/{shard}/{table}.parquet"
                for shard in SHARDS["cxr"]
                for table in ("studies", "series", "instances")
            ]
        ),
    wildcard_constraints:
        modality="cxr",


use rule index_reports as index_reports_cxr with:
    output:
        shards=update(
            [
                f"restricted/{{modality}}/01_index/reports/{shard}/reports.parquet"
                for shard in SHARDS["cxr"]
            ]
        ),
    wildcard_constraints:
        modality="cxr",


for modality in MODALITIES:

    tables = {"images": "studies", "reports": "reports"}

    rule:
        name:
            f"index_{modality}"
        input:
            wanted(
                modality,
                [
                    f"restricted/{modality}/01_index/{kind}/{shard}/{tables[kind]}.parquet"
                    for kind in kinds(modality)
                    for shard in SHARDS[modality]
                ],
            ),
        localrule: True
