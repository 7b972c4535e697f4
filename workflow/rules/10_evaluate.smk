rule evaluate_truth:
    """Masks drawn on the scans -> the model's grid, named by pseudonym. No stage below may read them."""
    input:
        truth=drawn_masks,
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
    output:
        "results/{modality}/10_evaluate/truth/manifest.parquet",
    log:
        "logs/{modality}/10_evaluate/truth.log",
    benchmark:
        "logs/{modality}/10_evaluate/truth.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate"),
        key=key_argument,
    shell:
        recorded(
            "python -m glint evaluate truth {params.key} --resampled {input.resampled} "
            "--split {input.split} --out {output} --config {params.config:q}"
        )


rule evaluate_models:
    """Checkpoints + test split + truth -> metrics with intervals, tables, figures, a report."""
    input:
        checkpoints=lambda wildcards: [
            f"results/{wildcards.modality}/09_train/{arm}/fingerprint.json"
            for arm in section("evaluate", wildcards.modality).arms
        ],
        truth="results/{modality}/10_evaluate/truth/manifest.parquet",
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        sections=per_shard("results/{modality}/05_sections/{shard}/manifest.parquet"),
        features=cached_features,
    output:
        "results/{modality}/10_evaluate/metrics.json",
    log:
        "logs/{modality}/10_evaluate/models.log",
    benchmark:
        "logs/{modality}/10_evaluate/models.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    threads: 2
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate"),
        checkpoints=lambda wildcards, input: [
            Path(path).parent for path in input.checkpoints
        ],
        out=subpath(output[0], parent=True),
        features=lambda wildcards, input: (
            features_argument(wildcards, input)
            or f"--teacher results/{wildcards.modality}/07_teacher"
        ),
    shell:
        recorded(
            "python -m glint evaluate models --checkpoints {params.checkpoints} "
            "--resampled {input.resampled} --sections {input.sections} --split {input.split} "
            "{params.features} --truth {input.truth} --out {params.out} "
            "--config {params.config:q}"
        )


rule evaluate_pages:
    """What a person looks at, in one folder that `snakemake --report` embeds: evaluation, training, cohort."""
    input:
        metrics="results/{modality}/10_evaluate/metrics.json",
        checkpoints=lambda wildcards: [
            f"results/{wildcards.modality}/09_train/{arm}/fingerprint.json"
            for arm in section("evaluate", wildcards.modality).arms
        ],
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        split="results/{modality}/06_split/manifest.parquet",
        truth="results/{modality}/10_evaluate/truth/manifest.parquet",
    output:
        report(
            "results/{modality}/10_evaluate/pages/evaluation.html",
            category="Evaluation",
            caption="../report/evaluation.rst",
            labels={"modality": "{modality}", "page": "evaluation"},
        ),
        report(
            "results/{modality}/10_evaluate/pages/zero_shot.csv",
            category="Evaluation",
            caption="../report/zero_shot.rst",
            labels={"modality": "{modality}", "page": "every metric as a table"},
        ),
        report(
            "results/{modality}/10_evaluate/pages/training.html",
            category="Training",
            caption="../report/training.rst",
            labels={"modality": "{modality}", "page": "training"},
        ),
        report(
            "results/{modality}/10_evaluate/pages/cohort.html",
            category="Data",
            caption="../report/cohort.rst",
            labels={"modality": "{modality}", "page": "cohort"},
        ),
    log:
        "logs/{modality}/10_evaluate/pages.log",
    benchmark:
        "logs/{modality}/10_evaluate/pages.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate"),
        evaluation=subpath(input.metrics, parent=True),
        out=subpath(output[0], parent=True),
        checkpoints=lambda wildcards, input: [
            Path(path).parent for path in input.checkpoints
        ],
    shell:
        recorded(
            "python -m glint evaluate pages --evaluation {params.evaluation} --checkpoints {params.checkpoints} "
            "--resampled {input.resampled} --split {input.split} --truth {input.truth} --out {params.out}"
        )


rule evaluate_run:
    """One run of the ablation on the measured split: a row per finding and study."""
    input:
        checkpoint="results/{modality}/09_train/{arm}/fingerprint.json",
        truth="results/{modality}/10_evaluate/truth/manifest.parquet",
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        features=per_shard("results/{modality}/08_features/{shard}/manifest.parquet"),
    output:
        "results/{modality}/10_evaluate/ablation/runs/{arm}/cases.parquet",
    log:
        "logs/{modality}/10_evaluate/run-{arm}.log",
    benchmark:
        "logs/{modality}/10_evaluate/run-{arm}.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate"),
        checkpoint=subpath(input.checkpoint, parent=True),
    shell:
        recorded(
            "python -m glint evaluate run --checkpoint {params.checkpoint} --resampled {input.resampled} "
            "--split {input.split} --features {input.features} --truth {input.truth} --out {output} "
            "--config {params.config:q}"
        )


rule evaluate_ablation:
    """Every run's cases -> the table of all experiments with intervals, and each claim shown true or false."""
    input:
        lambda wildcards: [
            f"results/{wildcards.modality}/10_evaluate/ablation/runs/{run}/cases.parquet"
            for run in ablation_runs(CONFIG, wildcards.modality)
        ],
    output:
        "results/{modality}/10_evaluate/ablation/table/ablation.json",
    log:
        "logs/{modality}/10_evaluate/ablation.log",
    benchmark:
        "logs/{modality}/10_evaluate/ablation.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate"),
        experiments=json.dumps(
            {
                name: one.model_dump(mode="json")
                for name, one in CONFIG.experiments.items()
            }
        ),
        out=subpath(output[0], parent=True),
    shell:
        recorded(
            "python -m glint evaluate ablation --cases {input} --experiments {params.experiments:q} "
            "--out {params.out} --config {params.config:q}"
        )


rule evaluate_probe:
    """Frozen tokens + labels -> linear and attentive probe by share of labels and by shots."""
    input:
        checkpoint="results/{modality}/09_train/glint/fingerprint.json",
        truth="results/{modality}/10_evaluate/truth/manifest.parquet",
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        sections=per_shard("results/{modality}/05_sections/{shard}/manifest.parquet"),
        features=cached_features,
    output:
        "results/{modality}/10_evaluate/downstream/probe/probe.json",
    log:
        "logs/{modality}/10_evaluate/downstream-probe.log",
    benchmark:
        "logs/{modality}/10_evaluate/downstream-probe.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate", "downstream-probe"),
        checkpoint=subpath(input.checkpoint, parent=True),
        out=subpath(output[0], parent=True),
        features=features_argument,
    shell:
        recorded(
            "python -m glint downstream probe --checkpoint {params.checkpoint} --resampled {input.resampled} "
            "--sections {input.sections} --split {input.split} --truth {input.truth} {params.features} "
            "--out {params.out} --config {params.config:q}"
        )


rule evaluate_segment:
    """Masks of the training split -> a decoder on the frozen and on the fine-tuned encoder, measured on test masks."""
    input:
        checkpoint="results/{modality}/09_train/glint/fingerprint.json",
        truth="results/{modality}/10_evaluate/truth/manifest.parquet",
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
    output:
        "results/{modality}/10_evaluate/downstream/segment/segment.json",
    log:
        "logs/{modality}/10_evaluate/downstream-segment.log",
    benchmark:
        "logs/{modality}/10_evaluate/downstream-segment.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate", "downstream-segment"),
        checkpoint=subpath(input.checkpoint, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        recorded(
            "python -m glint downstream segment --checkpoint {params.checkpoint} --resampled {input.resampled} "
            "--split {input.split} --truth {input.truth} --out {params.out} --config {params.config:q}"
        )


rule evaluate_report:
    """Gated evidence + reports of the training split -> a language model that writes reports, measured on the test split."""
    input:
        checkpoint="results/{modality}/09_train/glint/fingerprint.json",
        split="results/{modality}/06_split/manifest.parquet",
        resampled=per_shard("results/{modality}/04_resample/{shard}/manifest.parquet"),
        sections=per_shard("results/{modality}/05_sections/{shard}/manifest.parquet"),
    output:
        "results/{modality}/10_evaluate/downstream/report/report.json",
    log:
        "logs/{modality}/10_evaluate/downstream-report.log",
    benchmark:
        "logs/{modality}/10_evaluate/downstream-report.benchmark.tsv"
    wildcard_constraints:
        modality=only("evaluate"),
    resources:
        **job("evaluate"),
    params:
        config=slice_json("evaluate"),
        recipe=recipe("evaluate", "downstream-report"),
        checkpoint=subpath(input.checkpoint, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        recorded(
            "python -m glint downstream report --checkpoint {params.checkpoint} --resampled {input.resampled} "
            "--sections {input.sections} --split {input.split} --out {params.out} --config {params.config:q}"
        )


for modality in modalities_of("evaluate"):

    rule:
        name:
            f"ablate_{modality}"
        input:
            f"results/{modality}/10_evaluate/ablation/table/ablation.json",
        localrule: True

    rule:
        name:
            f"evaluate_{modality}"
        input:
            wanted(modality, evaluated(modality)),
        localrule: True

    rule:
        name:
            f"downstream_{modality}"
        input:
            f"results/{modality}/10_evaluate/downstream/probe/probe.json",
            f"results/{modality}/10_evaluate/downstream/segment/segment.json",
            f"results/{modality}/10_evaluate/downstream/report/report.json",
        localrule: True
