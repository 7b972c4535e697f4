rule deidentify_images:
    """Indexed series of one shard -> DICOM without identifiers, residual scan, audit."""
    input:
        instances="restricted/{modality}/01_index/images/{shard}/instances.parquet",
        series="restricted/{modality}/01_index/images/{shard}/series.parquet",
        studies="restricted/{modality}/01_index/images/{shard}/studies.parquet",
    output:
        "results/{modality}/02_deidentify/images/{shard}/manifest.parquet",
    log:
        "logs/{modality}/02_deidentify/images_{shard}.log",
    benchmark:
        "logs/{modality}/02_deidentify/images_{shard}.benchmark.tsv"
    resources:
        **job("deidentify"),
    params:
        config=slice_json("deidentify"),
        raw=lambda wildcards: list(section("index", wildcards.modality).raw_dirs),
        recipe=recipe("deidentify"),
    shell:
        recorded(
            "python -m glint deidentify images --index $(dirname {input.instances}) --raw {params.raw:q} --out {output} "
            "--config {params.config:q}"
        )


rule deidentify_reports:
    """Report texts of one shard -> the same texts without identifiers, dates shifted."""
    input:
        reports="restricted/{modality}/01_index/reports/{shard}/reports.parquet",
        studies="restricted/{modality}/01_index/images/{shard}/studies.parquet",
    output:
        "results/{modality}/02_deidentify/reports/{shard}/manifest.parquet",
    log:
        "logs/{modality}/02_deidentify/reports_{shard}.log",
    benchmark:
        "logs/{modality}/02_deidentify/reports_{shard}.benchmark.tsv"
    resources:
        **job("deidentify"),
    params:
        config=slice_json("deidentify"),
        recipe=recipe("deidentify"),
    shell:
        recorded(
            "python -m glint deidentify reports --reports {input.reports} --studies {input.studies} --out {output} "
            "--original-spans restricted/{wildcards.modality}/02_deidentify/reports/{wildcards.shard}/original_spans.parquet "
            "--config {params.config:q}"
        )


rule deidentify_audit:
    """Both of all shards -> score, what remains, pictures of what was blanked; what shows identifiers stays restricted."""
    input:
        images=per_shard(
            "results/{modality}/02_deidentify/images/{shard}/manifest.parquet"
        ),
        reports=lambda wildcards: (
            per_shard(
                "results/{modality}/02_deidentify/reports/{shard}/manifest.parquet"
            )(wildcards)
            if "reports" in kinds(wildcards.modality)
            else []
        ),
        instances=per_shard(
            "restricted/{modality}/01_index/images/{shard}/instances.parquet"
        ),
        series=per_shard("restricted/{modality}/01_index/images/{shard}/series.parquet"),
    output:
        score="results/{modality}/02_deidentify/audit/score.json",
        page=report(
            "results/{modality}/02_deidentify/audit/audit.html",
            category="Data",
            caption="../report/deidentification.rst",
            labels={"modality": "{modality}", "page": "de-identification"},
        ),
    log:
        "logs/{modality}/02_deidentify/audit.log",
    benchmark:
        "logs/{modality}/02_deidentify/audit.benchmark.tsv"
    resources:
        **job("deidentify"),
    params:
        config=slice_json("deidentify"),
        raw=lambda wildcards: list(section("index", wildcards.modality).raw_dirs),
        reports=lambda wildcards: (
            f"--reports results/{wildcards.modality}/02_deidentify/reports"
            if "reports" in kinds(wildcards.modality)
            else ""
        ),
        recipe=recipe("deidentify"),
    shell:
        recorded(
            "python -m glint deidentify audit --images results/{wildcards.modality}/02_deidentify/images {params.reports} "
            "--index restricted/{wildcards.modality}/01_index --raw {params.raw:q} --out {output.score} "
            "--restricted restricted/{wildcards.modality}/02_deidentify/audit --config {params.config:q}"
        )


for modality in MODALITIES:

    rule:
        name:
            f"audit_{modality}"
        input:
            f"results/{modality}/02_deidentify/audit/score.json",
        localrule: True

    rule:
        name:
            f"deidentify_{modality}"
        input:
            wanted(
                modality,
                [
                    f"results/{modality}/02_deidentify/{kind}/{shard}/manifest.parquet"
                    for kind in kinds(modality)
                    for shard in SHARDS[modality]
                ],
            ),
            wanted(modality, [f"results/{modality}/02_deidentify/audit/score.json"]),
        localrule: True
