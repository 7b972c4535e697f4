"""Start torchrun on every node of a job of several nodes: `srun … python -m glint.training.launch --ranks-per-node 4 COMMAND`.

srun runs this once per node. The meeting place is worked out here and not in the rule, because Snakemake's job step hides
most SLURM_ variables from the rule's shell; they exist inside what srun starts.
"""

import argparse
import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from glint.core.errors import InputError

PORTS = range(20_000, 30_000)
"""Below the ephemeral ports of Linux (from 32768), so that no outgoing connection holds the one chosen."""


def first_address(nodelist: str) -> str:
    """Where the first node of `node[01-03]` is reached, as Slurm itself reaches it."""
    hosts = _said("scontrol", "show", "hostnames", nodelist).split()
    found = re.search(r"\bNodeAddr=(\S+)", _said("scontrol", "show", "node", hosts[0]))
    return found[1] if found else hosts[0]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def meeting_port(job_id: int) -> int:
    """A port of the job's own, so that two jobs on one node don't meet each other."""
    return PORTS[job_id % len(PORTS)]


def torchrun_command(
    command: Sequence[str], *, environment: Mapping[str, str], address: str, ranks_per_node: int
) -> list[str]:
    """The torchrun call of one node of a Slurm step; the agents of all nodes meet at `address`.

    Raises:
        InputError: `environment` is not that of a Slurm step.
    """
    try:
        job_id, agents, node = (
            int(environment[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID")
        )
    except KeyError as error:
        raise InputError(f"{error.args[0]} is not set: this is started by srun, one task per node") from error
    return [
        "torchrun",
        f"--nnodes={agents}",
        f"--nproc-per-node={ranks_per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={job_id}",
        f"--rdzv-endpoint={address}:{meeting_port(job_id)}",
        # Said, since torchrun's guess from host names fails where nodes are known by other names than their own.
        f"--rdzv-conf=is_host={int(node == 0)}",
        "--no-python",
        *command,
    ]


def main() -> None:
    """Become torchrun, so that signals reach it."""
    parser = argparse.ArgumentParser(description="start torchrun on this node of a Slurm job")
    parser.add_argument("--ranks-per-node", type=int, required=True, help="processes per node; with GPUs one for each")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what every process runs")
    args = parser.parse_args()
    address = first_address(os.environ.get("SLURM_JOB_NODELIST", "localhost"))
    call = torchrun_command(args.command, environment=os.environ, address=address, ranks_per_node=args.ranks_per_node)
    os.execvp(call[0], call)


if __name__ == "__main__":
    main()
