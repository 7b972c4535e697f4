"""A real Slurm on one machine, for as long as a test needs it: own key, own ports, two nodes that are this machine twice.

Needs root, Debian's packages slurmctld, slurmd, slurm-client and munge, and a machine without a Slurm of its own.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
SYSTEM_CONF = Path("/etc/slurm")
"""Where every Slurm command looks: Snakemake's job step drops SLURM_CONF from the environment before it calls srun."""
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")
LINKS = (SYSTEM_CONF / "slurm.conf", SYSTEM_CONF / "gres.conf")
NODE_NAMES = ("lab1", "lab2")
NODE_CPUS, NODE_MEM_MB = 8, 8000

# linuxproc and jobacct_gather/linux need no cgroup, whose layout differs between machines: memory is polled once a second
# and the job ended. MinJobAge: without a database squeue has to remember finished jobs. config_overrides: each node may
# claim cores that this machine doesn't have twice.
SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={root}/controller
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
SlurmctldPort=16917
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=3,bf_interval=3
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
MinJobAge=7200
KillWait=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
{nodes}
PartitionName=batch Nodes={names} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes={names} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={mem_mb} Gres=gpu:fake:1"
)
FIRST_NODE_PORT = 16930


def _alive(pid: str) -> bool:
    """Whether process `pid` runs; an ended one that nobody has waited for doesn't."""
    status = Path("/proc", pid or "none", "stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _left_behind(link: Path) -> bool:
    """Whether `link` was made by a lab that was killed and whose controller is gone."""
    if not link.is_symlink():
        return False
    pid_file = link.readlink().parent / "slurmctld.pid"
    return not pid_file.is_file() or not _alive(pid_file.read_text().strip())


def missing() -> str | None:
    """Why no lab can be started here; None where it can."""
    absent = [name for name in (*DAEMONS, "sbatch", "scontrol", "setpriv") if shutil.which(name) is None]
    if absent:
        return f"no {absent[0]} here: make check-slurm installs Slurm"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "no Slurm executor of Snakemake here: make check-slurm installs it"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if any(path.exists() and not _left_behind(path) for path in LINKS):
        return f"{SYSTEM_CONF} belongs to a Slurm of this machine"
    return None


def eventually(condition: Callable[[], object], *, within_s: float, what: str) -> None:
    """Return once `condition` holds."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)


def said(*command: str) -> str:
    """Standard output of a command; empty where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as the controller remembers it."""

    number: int
    comment: str
    state: str
    mem_mb: int
    limit: str
    nodes: int


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A running Slurm."""

    root: Path

    def jobs(self, comment: str = "") -> list[JobRecord]:
        """Every job since the start whose comment (rule and wildcards) holds `comment`, in order of submission."""
        rows = [
            line.split("|") for line in said("squeue", "-h", "--states=all", "-o", "%A|%k|%T|%m|%l|%D").splitlines()
        ]
        factor = {"M": 1, "G": 1024}
        found = [
            JobRecord(
                number=int(row[0]),
                comment=row[1],
                state=row[2],
                mem_mb=int(float(row[3][:-1]) * factor[row[3][-1]]),
                limit=row[4],
                nodes=int(row[5]),
            )
            for row in rows
        ]
        return sorted((job for job in found if comment in job.comment), key=lambda job: job.number)

    def update_nodes(self, **values: str) -> None:
        """`scontrol update` of both nodes."""
        named = [f"{name}={value}" for name, value in values.items()]
        subprocess.run(["scontrol", "update", f"NodeName={','.join(NODE_NAMES)}", *named], check=True)


def _write_configuration(root: Path) -> None:
    host = socket.gethostname().split(".")[0]
    nodes = [
        NODE.format(name=name, host=host, port=FIRST_NODE_PORT + index, cpus=NODE_CPUS, mem_mb=NODE_MEM_MB)
        for index, name in enumerate(NODE_NAMES)
    ]
    text = SLURM_CONF.format(host=host, root=root, nodes="\n".join(nodes), names=",".join(NODE_NAMES))
    (root / "slurm.conf").write_text(text)
    # A GPU that is a plain device file: requests are granted and exported, nothing computes on it.
    (root / "gres.conf").write_text(
        "".join(f"NodeName={name} Name=gpu Type=fake File=/dev/null\n" for name in NODE_NAMES)
    )


def _start_munge(root: Path) -> None:
    folder = root / "munge"
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    MUNGE_SOCKET.parent.mkdir(exist_ok=True)
    for path in (folder, folder / "key", MUNGE_SOCKET.parent):
        shutil.chown(path, "munge", "munge")
    folder.chmod(0o700)
    MUNGE_SOCKET.parent.chmod(0o755)
    as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    files = [f"--{name}={folder / name}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
    files[0] = f"--key-file={folder / 'key'}"
    # --force: folders above the key may be writable by others in a test's temporary place
    subprocess.run([*as_munge, "munged", "--force", f"--socket={MUNGE_SOCKET}", *files], check=True)
    eventually(MUNGE_SOCKET.exists, within_s=10, what="munge's socket")


def _stop(pid_file: Path, name: str) -> None:
    """End the daemon that wrote `pid_file`, if it still is that one."""
    if not pid_file.is_file() or not (text := pid_file.read_text().strip()):
        return
    comm = Path(f"/proc/{text}/comm")
    if not comm.is_file() or comm.read_text().strip() != name:
        return
    os.kill(int(text), signal.SIGTERM)
    try:
        eventually(lambda: not _alive(text), within_s=20, what=f"the end of {name}")
    except TimeoutError:
        os.kill(int(text), signal.SIGKILL)


@contextmanager
def running_lab(root: Path) -> Iterator[Lab]:
    """Start the daemons with their files below `root`; stop them, and leave no trace in /etc, whatever happens."""
    for name in ("controller", *(f"spool-{node}" for node in NODE_NAMES)):
        (root / name).mkdir(parents=True)
    for folder in (root, *root.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)  # munge's user has to pass through
    _write_configuration(root)
    SYSTEM_CONF.mkdir(exist_ok=True)
    try:
        for link in LINKS:
            link.unlink(missing_ok=True)
            link.symlink_to(root / link.name)
        _start_munge(root)
        subprocess.run(["slurmctld"], check=True)
        eventually(lambda: "UP" in said("scontrol", "ping"), within_s=30, what="the controller")
        for node in NODE_NAMES:
            subprocess.run(["slurmd", "-N", node], check=True)
        eventually(
            lambda: said("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 2, within_s=60, what="idle nodes"
        )
        yield Lab(root=root)
    finally:
        subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
        for node in NODE_NAMES:
            _stop(root / f"slurmd-{node}.pid", "slurmd")
        _stop(root / "slurmctld.pid", "slurmctld")
        _stop(root / "munge" / "pid-file", "munged")
        for link in LINKS:
            if link.is_symlink() and link.readlink().parent == root:
                link.unlink()
