rule features:
    """Volumes of one shard + frozen teacher -> one HDF5 shard of patch tokens with its fingerprint."""
    input:
        manifest="results/{modality}/04_resample/{shard}/manifest.parquet",
        teacher="results/{modality}/07_teacher/teacher.json",
    output:
        "results/{modality}/08_features/{shard}/manifest.parquet",
    log:
        "logs/{modality}/08_features/{shard}.log",
    benchmark:
        "logs/{modality}/08_features/{shard}.benchmark.tsv"
    wildcard_constraints:
        modality=only("features"),
    resources:
        **job("features"),
    params:
        config=slice_json("features"),
        recipe=recipe("features"),
        teacher=subpath(input.teacher, parent=True),
    shell:
        recorded(
            "python -m glint features encode --manifest {input.manifest} --teacher {params.teacher} "
            "--out {output} --config {params.config:q}"
        )


for modality in modalities_of("features"):

    rule:
        name:
            f"features_{modality}"
        input:
            wanted(modality, cache_manifests(modality)),
        localrule: True
