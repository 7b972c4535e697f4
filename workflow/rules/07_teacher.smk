rule teacher:
    """A hub id, a path, or the training split's volumes -> frozen teacher weights, pinned by SHA-256."""
    input:
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
    output:
        "results/{modality}/07_teacher/teacher.json",
    log:
        "logs/{modality}/07_teacher/teacher.log",
    benchmark:
        "logs/{modality}/07_teacher/teacher.benchmark.tsv"
    wildcard_constraints:
        modality=only("teacher"),
    threads:
        lambda wildcards: CONFIG.cluster.teacher.ranks
        * section("teacher", wildcards.modality).threads
    resources:
        **shared_job("teacher"),
    params:
        config=slice_json("teacher"),
        recipe=recipe("teacher"),
        out=subpath(output[0], parent=True),
        state="state/{modality}/07_teacher",
        launcher=launcher("teacher"),
        limit=time_limit(),
    shell:
        recorded(
            "{params.launcher} python -m glint teacher --resampled {input.resampled} --split {input.split} "
            "--out {params.out} --state {params.state} {params.limit} --config {params.config:q}"
        )


for modality in modalities_of("teacher"):

    rule:
        name:
            f"teacher_{modality}"
        input:
            wanted(modality, [f"results/{modality}/07_teacher/teacher.json"]),
        localrule: True

    rule:
        name:
            f"pretrain_teacher_{modality}"
        input:
            pretrained_teacher(modality),
        localrule: True
