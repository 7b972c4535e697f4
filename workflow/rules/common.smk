"""What the stages share: configuration slices, code digests, shards."""


def slice_json(stage):
    """Parameter function: the stage's configuration as JSON, so that a changed value reruns the stage.

    A training run has its experiment's values laid over it.
    """
    return lambda wildcards: json.dumps(
        (
            train_slice(CONFIG, wildcards.modality, wildcards.arm)
            if stage == "train"
            else stage_slice(CONFIG, stage, wildcards.modality)
        ),
        sort_keys=True,
    )


def preparation_json():
    """Parameter function: how volumes are made, as JSON; a checkpoint carries it to whoever uses the model."""
    return lambda wildcards: json.dumps(
        {"modality": wildcards.modality}
        | {
            stage: stage_slice(CONFIG, stage, wildcards.modality)
            for stage in ("convert", "resample")
        },
        sort_keys=True,
    )


def made_by_the_demo(modality):
    """Whether every raw folder is the synthetic hospital's."""
    folders = section("index", modality).raw_dirs
    return all(
        folder.startswith(f"restricted/{modality}/00_demo") for folder in folders
    )


def only(stage):
    """Wildcard constraint: the modalities that the stage works on."""
    return "|".join(modalities_of(stage))


def recipe(stage, job=""):
    """Parameter function: the stage's recipe as JSON, for the receipt; `job` is the log's name where the recipe depends on it."""
    return lambda wildcards: json.dumps(
        dataclasses.asdict(
            recipe_of(
                CONFIG, stage, wildcards.modality, job or wildcards.get("arm", "")
            )
        )
    )


def recorded(command, inputs="--inputs {input}"):
    """Shell text of a job: the command, then the receipt of what it made; both write to the job's log."""
    receipt = f"python -m glint receipt {inputs} --outputs {{output}} --log {{log}} --recipe {{params.recipe:q}}"
    return f"( {command} && {receipt} ) > {{log}} 2>&1"


def per_shard(pattern):
    """Input function: `pattern` for every shard of the modality."""
    return lambda wildcards: [
        pattern.format(modality=wildcards.modality, shard=shard)
        for shard in SHARDS[wildcards.modality]
    ]


def wanted(modality, files):
    """`files`, or nothing where no raw folder of the modality is named: its stages are then done with nothing made."""
    return files if section("index", modality).raw_dirs else []


def evaluated(modality):
    """What says that a modality is measured, and that the pages of it are there."""
    folder = f"results/{modality}/10_evaluate"
    return [f"{folder}/metrics.json", f"{folder}/pages/evaluation.html"]


def pretrained_teacher(modality):
    """Input function: the teacher, where the configuration says that it is pretrained here."""

    def asked(wildcards):
        source = section("teacher", modality).source
        if source != "pretrain":
            raise WorkflowError(
                f"teacher.{modality}.source is {source!r}: nothing is pretrained; set it to pretrain, "
                f"or ask for teacher_{modality}"
            )
        return f"results/{modality}/07_teacher/teacher.json"

    return asked


def cache_manifests(modality):
    """Manifests of stage 08; none where the teacher runs in the training step."""
    if section("teacher", modality).features == "online":
        return []
    return [
        f"results/{modality}/08_features/{shard}/manifest.parquet"
        for shard in SHARDS[modality]
    ]


def cached_features(wildcards):
    """Input function: `cache_manifests` of the modality."""
    return cache_manifests(wildcards.modality)


def features_argument(wildcards, input):
    """Shell text that names the manifests of stage 08, if there are any."""
    return f"--features {input.features}" if input.features else ""


def kinds(modality):
    """What of a modality is indexed and cleaned: images alone where there is no report table."""
    return (
        ("images", "reports")
        if section("index", modality).report_table
        else ("images",)
    )


def key_argument(wildcards):
    """Shell text that names the key file; a site's own key is named by GLINT_DEID_KEY_FILE instead."""
    file = stage_slice(CONFIG, "deidentify", wildcards.modality)["key_file"]
    return f"--key-file {file}" if file else ""


def section(stage, modality):
    """The typed configuration of a stage."""
    return getattr(getattr(CONFIG, stage), modality)


def raw_images(wildcards):
    """The raw folders; for the demo, the file that is written when its folder is whole.

    An absent folder is the command's to refuse: a clone that pulled what was made from it has nothing to do.
    """
    folders = section("index", wildcards.modality).raw_dirs
    demo = f"restricted/{wildcards.modality}/00_demo"
    return [
        f"{demo}/summary.json" if folder.startswith(demo) else folder
        for folder in folders
        if folder.startswith(demo) or Path(folder).exists()
    ]


def assigned_splits(wildcards):
    """The table of a published division, where one is named."""
    named = stage_slice(CONFIG, "split", wildcards.modality)["assigned"]
    return [named] if named else []


def drawn_masks(wildcards):
    """The truth folder; for the demo, the file that names its findings."""
    folder = stage_slice(CONFIG, "evaluate", wildcards.modality)["truth_dir"]
    demo = f"restricted/{wildcards.modality}/00_demo"
    return f"{folder}/findings.json" if folder.startswith(demo) else folder


OWNER = Path(".snakemake/owner")
LOCKS = Path(".snakemake/locks")


def locked():
    """Whether a run holds this workspace."""
    return any(LOCKS.glob("*.lock"))


def require_writable():
    """Stop in one line where this user may not write: Snakemake notes even its plans below `.snakemake`."""
    for folder in (Path(), *Path().glob(".snakemake"), *Path().glob(".snakemake/*/")):
        if not os.access(folder, os.W_OK):
            sys.exit(
                f"glint: {folder.resolve()} is another user's (uid {folder.stat().st_uid}) or read-only: you may not write there. Work in a folder of your own "
                "(snakemake --directory), or share this one with a group (docs/hpc.md, section 9)"
            )


def close_restricted():
    """Identifiers are their owner's alone: Snakemake makes the folders of outputs open to all, so the topmost is closed first."""
    folder = Path("restricted")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)


def drop_stale_lock():
    """Remove the lock of a killed run: its process, noted when it started on this host, is gone.

    A lock of a living run, or of a run on another host, stays: who holds it is told, and Snakemake refuses as usual.
    """
    if not OWNER.is_file():
        return
    host, pid = OWNER.read_text().split()
    if host == socket.gethostname() and not psutil.pid_exists(int(pid)):
        for lock in LOCKS.glob("*.lock"):
            lock.unlink(missing_ok=True)
        OWNER.unlink(missing_ok=True)
    elif locked() and workflow.is_main_process:
        print(
            f"glint: process {pid} on {host} works in this folder: wait for it; if that machine is gone, call once with --unlock",
            file=sys.stderr,
        )


def job(stage):
    """Resources of a stage's jobs from the section `cluster`, as keywords; memory and time grow with every attempt."""
    cluster = CONFIG.cluster
    asked = {
        "mem_mb": lambda wildcards, attempt: cluster.mem_mb(stage, attempt),
        "runtime": lambda wildcards, attempt: cluster.runtime_min(stage, attempt),
    }
    if cluster.job(stage).gpus:
        asked["gpu"] = cluster.job(stage).gpus
    if cluster.partition_of(stage):
        asked["slurm_partition"] = cluster.partition_of(stage)
    if cluster.account:
        asked["slurm_account"] = cluster.account
    return asked


def on_cluster():
    """Whether this call runs one job that a cluster was given, where a time limit kills and nodes are several."""
    return workflow.remote_exec


def time_limit():
    """Parameter function: the scheduler's limit as an argument; a local run has none."""
    return lambda wildcards, resources: (
        f"--max-minutes {resources.runtime}" if on_cluster() else ""
    )


def shared_job(stage):
    """`job` of a stage that may run on several nodes, whose shell then starts the processes itself.

    GPUs are asked per node there: the plugin makes of `gpu` with `tasks` a number of tasks per GPU.
    """
    asked = job(stage)
    nodes, gpus = CONFIG.cluster.job(stage).nodes, asked.get("gpu", 0)
    if nodes > 1:
        asked.pop("gpu", None)
        asked |= {"nodes": nodes, "tasks": nodes, "mpi": "srun"}
        if gpus:
            asked["slurm_extra"] = f"--gpus-per-node={gpus}"
    return asked


def launcher(stage="train"):
    """Parameter function: what starts the processes that share a training step; nothing where it is one."""
    asked = CONFIG.cluster.job(stage)
    if asked.nodes > 1 and on_cluster():
        gpus = f"--gpus-per-node={asked.gpus} " if asked.gpus else ""
        return lambda wildcards, threads: (
            f"srun --nodes={asked.nodes} --ntasks={asked.nodes} --ntasks-per-node=1 --cpus-per-task={threads} {gpus}"
            f"--kill-on-bad-exit=1 python -m glint.training.launch --ranks-per-node {asked.ranks}"
        )
    if asked.ranks > 1:
        return f"torchrun --standalone --nproc-per-node={asked.ranks} --no-python"
    return ""
