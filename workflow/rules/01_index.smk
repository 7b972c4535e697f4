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
    threads: 2
    resources:
        **job("index"),
    params:
        config=slice_json("index"),
        recipe=recipe("index"),
        out=subpath(output.studies, parent=True),
        key=key_argument(),
    shell:
        recorded(
            "python -m glint index images --out {params.out} {params.key} "
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
    resources:
        **job("index"),
    params:
        config=slice_json("index"),
        recipe=recipe("index"),
    shell:
        recorded(
            "python -m glint index reports --images $(dirname {input.studies}) "
            "--out restricted/{wildcards.modality}/01_index/reports --config {params.config:q}"
        )


for modality in MODALITIES:

    rule:
        name:
            f"index_{modality}"
        input:
            [
                f"restricted/{modality}/01_index/reports/{shard}/reports.parquet"
                for shard in SHARDS[modality]
            ],
        localrule: True
