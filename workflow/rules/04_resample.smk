rule resample:
    """Volumes -> the grid and spacing of the teacher, antialiased, true affine kept."""
    input:
        "results/{modality}/03_convert/{shard}/manifest.parquet",
    output:
        "results/{modality}/04_resample/{shard}/manifest.parquet",
    log:
        "logs/{modality}/04_resample/{shard}.log",
    benchmark:
        "logs/{modality}/04_resample/{shard}.benchmark.tsv"
    resources:
        **job("resample"),
    params:
        config=slice_json("resample"),
        recipe=recipe("resample"),
    shell:
        recorded(
            "python -m glint resample --modality {wildcards.modality} --manifest {input} --out {output} --workers {threads} "
            "--config {params.config:q}"
        )


for modality in MODALITIES:

    rule:
        name:
            f"resample_{modality}"
        input:
            wanted(
                modality,
                [
                    f"results/{modality}/04_resample/{shard}/manifest.parquet"
                    for shard in SHARDS[modality]
                ],
            ),
        localrule: True
