rule demo:
    """A seed -> a synthetic hospital with identities, reports and, kept aside, the truth."""
    output:
        summary="restricted/{modality}/00_demo/summary.json",
        reports="restricted/{modality}/00_demo/reports.csv",
        truth="restricted/{modality}/00_demo/truth/findings.json",
    log:
        "logs/{modality}/00_demo/demo.log",
    benchmark:
        "logs/{modality}/00_demo/demo.benchmark.tsv"
    threads: 2
    params:
        config=slice_json("demo"),
        code=code("demo"),
        out=subpath(output.summary, parent=True),
    shell:
        "python -m glint demo --out {params.out} --workers {threads} "
        "--config {params.config:q} > {log} 2>&1"


for modality in MODALITIES:

    rule:
        name:
            f"demo_{modality}"
        input:
            f"restricted/{modality}/00_demo/summary.json",
        localrule: True
