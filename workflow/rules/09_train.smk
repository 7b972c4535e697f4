rule train:
    """Volumes, sentences, split and teacher tokens -> a checkpoint, its configuration, its curves."""
    input:
        split="results/{modality}/06_split/manifest.parquet",
        teacher="results/{modality}/07_teacher/teacher.json",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        sections=per_shard("results/{modality}/05_sections/{shard}/manifest.parquet"),
        features=cached_features,
    output:
        "results/{modality}/09_train/{arm}/fingerprint.json",
    log:
        "logs/{modality}/09_train/{arm}.log",
    benchmark:
        "logs/{modality}/09_train/{arm}.benchmark.tsv"
    wildcard_constraints:
        modality=only("train"),
    threads:
        lambda wildcards: CONFIG.cluster.train.ranks
        * section("train", wildcards.modality).threads
    resources:
        **shared_job("train"),
    params:
        config=slice_json("train"),
        recipe=recipe("train"),
        teacher=subpath(input.teacher, parent=True),
        out=subpath(output[0], parent=True),
        state="state/{modality}/09_train/{arm}",
        features=features_argument,
        launcher=launcher(),
        limit=time_limit(),
        preparation=preparation_json(),
        synthetic=lambda wildcards: (
            "--synthetic" if made_by_the_demo(wildcards.modality) else ""
        ),
    shell:
        recorded(
            "{params.launcher} python -m glint train --resampled {input.resampled} "
            "--sections {input.sections} --split {input.split} --teacher {params.teacher} "
            "{params.features} --state {params.state} --out {params.out} {params.limit} "
            "--preparation {params.preparation:q} {params.synthetic} "
            "--config {params.config:q}"
        )


for modality in modalities_of("train"):

    rule:
        name:
            f"train_{modality}"
        input:
            wanted(modality, [f"results/{modality}/09_train/glint/fingerprint.json"]),
        localrule: True

    rule:
        name:
            f"train_arms_{modality}"
        input:
            wanted(
                modality,
                [
                    f"results/{modality}/09_train/{arm}/fingerprint.json"
                    for arm in section("evaluate", modality).arms
                ],
            ),
        localrule: True
