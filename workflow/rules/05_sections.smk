rule sections:
    """De-identified reports -> sections, sentences and findings with their character spans."""
    input:
        "results/{modality}/02_deidentify/reports/{shard}/manifest.parquet",
    output:
        "results/{modality}/05_sections/{shard}/manifest.parquet",
    log:
        "logs/{modality}/05_sections/{shard}.log",
    benchmark:
        "logs/{modality}/05_sections/{shard}.benchmark.tsv"
    resources:
        **job("sections"),
    params:
        config=slice_json("sections"),
        recipe=recipe("sections"),
        # A language model's checked answers, kept between runs and shared by shards; the rules write none.
        answers="state/{modality}/05_sections",
    shell:
        recorded(
            "python -m glint sections --manifest {input} --out {output} "
            "--model-cache {params.answers} --config {params.config:q}"
        )


for modality in MODALITIES:

    rule:
        name:
            f"sections_{modality}"
        input:
            wanted(
                modality,
                [
                    f"results/{modality}/05_sections/{shard}/manifest.parquet"
                    for shard in SHARDS[modality]
                    if "reports" in kinds(modality)
                ],
            ),
        localrule: True
