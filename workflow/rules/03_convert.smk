rule convert:
    """De-identified series -> one NIfTI in Hounsfield units each, through the geometry gate."""
    input:
        "results/{modality}/02_deidentify/images/{shard}/manifest.parquet",
    output:
        "results/{modality}/03_convert/{shard}/manifest.parquet",
    log:
        "logs/{modality}/03_convert/{shard}.log",
    benchmark:
        "logs/{modality}/03_convert/{shard}.benchmark.tsv"
    resources:
        **job("convert"),
    params:
        config=slice_json("convert"),
        recipe=recipe("convert"),
    shell:
        recorded(
            "python -m glint convert --modality {wildcards.modality} --manifest {input} --out {output} --workers {threads} "
            "--config {params.config:q}"
        )


for modality in MODALITIES:

    rule:
        name:
            f"convert_{modality}"
        input:
            wanted(
                modality,
                [
                    f"results/{modality}/03_convert/{shard}/manifest.parquet"
                    for shard in SHARDS[modality]
                ],
            ),
        localrule: True
