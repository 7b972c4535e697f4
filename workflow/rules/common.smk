"""What the stages share: configuration slices, code digests, shards."""


def slice_json(stage):
    """Parameter function: the stage's configuration as JSON, so that a changed value reruns the stage."""
    return lambda wildcards: json.dumps(
        stage_slice(CONFIG, stage, wildcards.modality), sort_keys=True
    )


def code(stage):
    """Parameter: digest of the code that the stage's command reaches, so that an edit reruns the stage."""
    return code_digest(f"glint.cli.{stage}")


def per_shard(pattern):
    """Input function: `pattern` for every shard of the modality."""
    return lambda wildcards: [
        pattern.format(modality=wildcards.modality, shard=shard)
        for shard in SHARDS[wildcards.modality]
    ]


def key_argument():
    """Shell text that names the key file; a site's own key is named by GLINT_DEID_KEY_FILE instead."""
    return (
        f"--key-file {CONFIG.deidentify.key_file}" if CONFIG.deidentify.key_file else ""
    )


def section(stage, modality):
    """The typed configuration of a stage."""
    return getattr(getattr(CONFIG, stage), modality)


def raw_images(wildcards):
    """The raw folders; for the demo, the file that is written when its folder is whole."""
    folders = section("index", wildcards.modality).raw_dirs
    demo = f"restricted/{wildcards.modality}/00_demo"
    return [
        f"{demo}/summary.json" if folder.startswith(demo) else folder
        for folder in folders
    ]


def drawn_masks(wildcards):
    """The truth folder; for the demo, the file that names its findings."""
    folder = section("evaluate", wildcards.modality).truth_dir
    demo = f"restricted/{wildcards.modality}/00_demo"
    return f"{folder}/findings.json" if folder.startswith(demo) else folder


OWNER = Path(".snakemake/owner")


def drop_stale_lock():
    """Remove the lock of a killed run: its process, noted when it started on this host, is gone.

    A lock of a living run, or of a run on another host, stays and Snakemake refuses as usual.
    """
    if not OWNER.is_file():
        return
    host, pid = OWNER.read_text().split()
    if host != socket.gethostname():
        return
    try:
        os.kill(int(pid), 0)  # signal 0 asks whether the process exists
    except ProcessLookupError:
        for lock in Path(".snakemake/locks").glob("*.lock"):
            lock.unlink(missing_ok=True)
        OWNER.unlink(missing_ok=True)
