rule demo:
    """A seed -> a synthetic hospital with identities, reports and, kept aside, the truth."""
    input:
        CONFIG_FILES,
    output:
        summary="restricted/{modality}/00_demo/summary.json",
        reports="restricted/{modality}/00_demo/reports.csv",
        truth="restricted/{modality}/00_demo/truth/findings.json",
    log:
        "logs/{modality}/00_demo/demo.log",
    benchmark:
        "logs/{modality}/00_demo/demo.benchmark.tsv"
    wildcard_constraints:
        modality=only("demo"),
    threads: 2
    resources:
        **job("demo"),
    params:
        config=slice_json("demo"),
        recipe=recipe("demo"),
        out=subpath(output.summary, parent=True),
    shell:
        recorded(
            "python -m glint demo --modality {wildcards.modality} --out {params.out} --workers {threads} "
            "--config {params.config:q}",
            inputs="--covered {input}",
        )


for modality in modalities_of("demo"):

    rule:
        name:
            f"demo_{modality}"
        input:
            f"restricted/{modality}/00_demo/summary.json",
        localrule: True
