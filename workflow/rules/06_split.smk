rule split:
    """Studies -> train, validation and test by patient, checked for leakage."""
    input:
        manifests=per_shard(
            "results/{modality}/02_deidentify/images/{shard}/manifest.parquet"
        ),
        assigned=assigned_splits,
        # Not read, and no reason to split again: nothing is trained before the run's audit is there.
        audit=ancient("results/{modality}/02_deidentify/audit/score.json"),
    output:
        "results/{modality}/06_split/manifest.parquet",
    log:
        "logs/{modality}/06_split/split.log",
    benchmark:
        "logs/{modality}/06_split/split.benchmark.tsv"
    resources:
        **job("split"),
    params:
        config=slice_json("split"),
        recipe=recipe("split"),
        key=key_argument,
    shell:
        recorded(
            "python -m glint split {params.key} --manifests {input.manifests} --out {output} "
            "--config {params.config:q}",
            inputs="--inputs {input.manifests} {input.assigned}",
        )


for modality in MODALITIES:

    rule:
        name:
            f"split_{modality}"
        input:
            wanted(modality, [f"results/{modality}/06_split/manifest.parquet"]),
        localrule: True
