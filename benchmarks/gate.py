"""The gate against its plain definition: exactness, memory, time, share of the matrix products' rate, digits under bfloat16.

    python benchmarks/gate.py --out benchmarks/results/gate.md      # about five minutes on a quiet core

Time is processor time of one thread, interleaved, the median over rounds of each round's ratio. Memory is the peak of a process
of its own above its inputs and their gradients. `naive` is the definition in plain PyTorch, every matrix kept by autograd.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from glint.losses.contrastive import contrastive_loss
from glint.model.blocked_gate import GateArguments, compare_recomputing, one_pass_loss
from glint.model.gate import PatchTokens, TextQueries, unit
from glint.model.gate_blocks import BlockSizes, block_sizes, cache_bytes
from glint.training.distributed import ALONE, Ranks

ROUNDS = 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """T sentences, B volumes, P patches, gate width G, value width D."""

    T: int
    B: int
    P: int
    G: int = 128
    D: int = 768

    @property
    def gemm_flop(self) -> float:
        """Products of forward and backward pass."""
        return 6.0 * self.T * self.B * self.P * (self.G + self.D)

    def __str__(self) -> str:
        return f"{self.B} volumes × {self.T} sentences × {self.P} patches, {self.G} + {self.D} wide"


SIZES = {
    "cxr-m": Size(256, 32, 1024),
    "ct-m": Size(256, 16, 4096),
    "cxr-l": Size(512, 64, 1024),
    "ct-l": Size(512, 32, 4096),
}


@dataclass
class Row:
    """One line of the table."""

    name: str
    size: str
    measured: str
    gate: str
    met: bool | None

    def __str__(self) -> str:
        met = {True: "met", False: "**not met**", None: "–"}[self.met]
        return f"| `{self.name}` | {self.size} | {self.measured} | {self.gate} | {met} |"


def leaves_of(size: Size, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> list[Tensor]:
    """Query, key, text, value, null vector, scale and bias."""
    torch.manual_seed(0)
    shapes = ((size.T, size.G), (size.B, size.P, size.G), (size.T, size.D), (size.B, size.P, size.D), (size.D,))
    vectors = [unit(torch.randn(shape, dtype=dtype, device=device)) for shape in shapes]
    scalars = [torch.tensor(value, dtype=dtype, device=device) for value in (10.0, -6.0)]
    return [one.requires_grad_() for one in (*vectors, *scalars)]


def naive(leaves: Sequence[Tensor], weight_BP: Tensor) -> Tensor:
    """Scores (T, B) by the definition."""
    query, key, text, value, null, scale, bias = leaves
    gate = torch.sigmoid(scale * torch.einsum("tg,bpg->tbp", query, key) + bias) * weight_BP
    pooled = torch.einsum("tbp,bpd->tbd", gate, value) + unit(null)
    return (text[:, None] * unit(pooled)).sum(dim=-1)


def arguments(leaves: Sequence[Tensor], weight_BP: Tensor) -> GateArguments:
    """The same for the blocked gate."""
    query, key, text, value, null, scale, bias = leaves
    return GateArguments(
        queries=TextQueries(text_TD=text, gate_TG=query),
        tokens=PatchTokens(value_BPD=value, gate_BPG=key, projected_BPD=value, hidden={}),
        weight_BP=weight_BP,
        null_D=null,
        scale=scale,
        bias=bias,
        rho=0.0,
        null_weight=1.0,
    )


def info_nce(score_TB: Tensor) -> Tensor:
    """A loss over all pairs."""
    logits = 14 * score_TB.float() if score_TB.dtype != torch.float64 else 14 * score_TB
    return logits.logsumexp(0).mean() + logits.logsumexp(1).mean() - 2 * logits[:, 0].mean()


def sigmoid_pairs(score_tb: Tensor, *_: object) -> Tensor:
    """A loss that is a sum over pairs."""
    return F.softplus(10 * score_tb.to(torch.promote_types(score_tb.dtype, torch.float32)) - 3).sum()


def plain_loss(leaves: Sequence[Tensor], weight_BP: Tensor) -> Tensor:
    """Loss over all pairs by the definition."""
    return info_nce(naive(leaves, weight_BP))


def recomputed(leaves: Sequence[Tensor], weight_BP: Tensor, **options: object) -> Tensor:
    """Loss over all pairs by the blocked gate."""
    return info_nce(compare_recomputing(arguments(leaves, weight_BP), evidence=False, **options).score_TB)  # type: ignore[arg-type]


def in_one_pass(leaves: Sequence[Tensor], weight_BP: Tensor, **options: object) -> Tensor:
    """Loss of single pairs by the blocked gate."""
    return one_pass_loss(arguments(leaves, weight_BP), sigmoid_pairs, evidence=False, **options)[0]  # type: ignore[arg-type]


def step(loss: Callable[[], Tensor], leaves: Sequence[Tensor], *, bf16: bool = False) -> None:
    """Forward and backward pass."""
    device = leaves[0].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    for leaf in leaves:
        leaf.grad = None


def seconds(run: Callable[[], None]) -> float:
    """Processor time."""
    started = time.process_time()
    run()
    return time.process_time() - started


def interleaved(runs: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of every run in every round, after one that warms up."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(seconds(run))
    return found


def ratio(found: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(found[name], found[base], strict=True))


def timed(size: Size, *, bf16: bool, compiled: bool, one_pass: bool) -> dict[str, list[float]]:
    """Naive, recompute and, if asked, one pass at one size; `naive sigmoid` is one pass's own."""
    leaves, weight_BP = leaves_of(size), torch.ones(size.B, size.P)
    losses: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: plain_loss(leaves, weight_BP),
        "recompute": lambda: recomputed(leaves, weight_BP, compiled=False),
    }
    if compiled:
        losses["recompute, fused"] = lambda: recomputed(leaves, weight_BP, compiled=True)
    if one_pass:
        losses["naive sigmoid"] = lambda: sigmoid_pairs(naive(leaves, weight_BP))
        losses["one pass"] = lambda: in_one_pass(leaves, weight_BP, compiled=False)
    if one_pass and compiled:
        losses["one pass, fused"] = lambda: in_one_pass(leaves, weight_BP, compiled=True)
    runs = {name: partial(step, loss, leaves, bf16=bf16) for name, loss in losses.items()}
    return interleaved(runs | {"products": products(size, torch.bfloat16 if bf16 else torch.float32)})


def products(size: Size, dtype: torch.dtype) -> Callable[[], None]:
    """The six matrix products of forward and backward pass alone, volume by volume."""
    query, text = torch.randn(size.T, size.G).to(dtype), torch.randn(size.T, size.D).to(dtype)
    key, value = torch.randn(size.P, size.G).to(dtype), torch.randn(size.P, size.D).to(dtype)
    gate = torch.randn(size.T, size.P).to(dtype)

    def run() -> None:
        for _ in range(size.B):
            _ = query @ key.T, gate @ value, text @ value.T, gate.T @ text, gate.T @ query, gate @ key

    return run


def exactness() -> tuple[float, float]:
    """Largest difference in value and gradients from the definition in float64: recompute, one pass; gradcheck raises."""
    size = Size(T=6, B=4, P=9, G=3, D=5)
    leaves, weight_BP = leaves_of(size, torch.float64), torch.rand(size.B, size.P, dtype=torch.float64)
    worst = []
    for run, plain in ((recomputed, info_nce), (in_one_pass, sigmoid_pairs)):
        expected = plain(naive(leaves, weight_BP))
        largest = 0.0
        for blocks in (BlockSizes(sentences=6, volumes=4), BlockSizes(sentences=4, volumes=1)):
            found = run(leaves, weight_BP, blocks=blocks)
            pairs = zip(
                torch.autograd.grad(found, leaves),
                torch.autograd.grad(expected, leaves, retain_graph=True),
                strict=True,
            )
            largest = max(
                largest, abs(float((found - expected).detach())), *(float((a - b).abs().max()) for a, b in pairs)
            )
        worst.append(largest)
        small = leaves_of(Size(T=3, B=2, P=4, G=2, D=3), torch.float64)
        some = torch.rand(2, 4, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda *given, run=run, some=some: run(given, some, blocks=BlockSizes(sentences=2, volumes=1)), small
        )
    return worst[0], worst[1]


def shared_gradient(rank: int, size: int, port: int, folder: str) -> None:
    """One of two processes: half of the volumes, scores gathered; writes its gradients averaged."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if size > 1:
        dist.init_process_group("gloo", rank=rank, world_size=size)
    ranks = Ranks(rank=rank, size=size) if size > 1 else ALONE
    whole = Size(T=12, B=6, P=20, G=4, D=8)
    leaves = leaves_of(whole, torch.float64)
    own = ranks.part(whole.B)
    local = [leaves[0], leaves[1][own], leaves[2], leaves[3][own], *leaves[4:]]
    weight_BP = torch.ones(whole.B, whole.P, dtype=torch.float64)[own]
    score_TB = ranks.gather(compare_recomputing(arguments(local, weight_BP)).score_TB)
    relation_TB = (torch.arange(12)[:, None] % 6 == torch.arange(6)[None]).long()
    contrastive_loss(score_TB, relation_TB, inverse_temperature=14.0).backward()  # type: ignore[no-untyped-call]
    ranks.average_gradients(leaves)
    torch.save([leaf.grad for leaf in leaves], Path(folder, f"{size}-{rank}.pt"))
    if size > 1:
        dist.destroy_process_group()


def shared_error(folder: Path) -> float:
    """Largest difference of two processes' gradients from one's."""
    torch.multiprocessing.spawn(shared_gradient, (2, 29557, str(folder)), nprocs=2)  # type: ignore[no-untyped-call]
    shared_gradient(0, 1, 0, str(folder))
    one, two = torch.load(folder / "1-0.pt"), torch.load(folder / "2-1.pt")
    return max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(name: str, variant: str) -> None:
    """In a process of its own: print the peak above inputs, without and with the inputs' gradients, in MiB."""
    torch.set_num_threads(1)
    loss = {
        "naive": plain_loss,
        "recompute": recomputed,
        "one pass": in_one_pass,
    }
    kind, _, precision = variant.partition(", ")
    bf16 = precision == "bf16"
    tiny = leaves_of(Size(T=4, B=2, P=8))
    step(lambda: loss[kind](tiny, torch.ones(2, 8)), tiny, bf16=bf16)  # libraries are loaded
    size = SIZES[name]
    leaves, weight_BP = leaves_of(size), torch.ones(size.B, size.P)
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    before = max(before, 0.0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step(lambda: loss[kind](leaves, weight_BP), leaves, bf16=bf16)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    peak = int(status["VmHWM"].split()[0]) / 1024
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
    print(peak - before - gradients, peak - before)


def memory(name: str, variant: str) -> tuple[float, float]:
    """(activations, total) in MiB."""
    command = [sys.executable, __file__, "--memory", name, variant]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(out[-2]), float(out[-1])


def planted(seed: int) -> tuple[list[Tensor], Size]:
    """Inputs as after training: twenty patches of a volume resemble a sentence. Every number fits bfloat16, so that inputs are exact."""
    size = Size(T=8, B=8, P=784)
    query, key, text, value, *others = (leaf.detach() for leaf in leaves_of(size))
    torch.manual_seed(seed)
    for volume in range(size.B):
        for sentence in (volume, (volume + 3) % size.T):
            patches = torch.randperm(size.P)[:20]
            key[volume, patches] = unit(key[volume, patches] + 1.5 * query[sentence])
            value[volume, patches] = unit(value[volume, patches] + 1.5 * text[sentence])
    return [one.bfloat16().float().requires_grad_() for one in (query, key, text, value, *others)], size


def bias_errors() -> dict[str, tuple[float, float]]:
    """Variant → relative error of the gradients of bias and scale, products in bfloat16, against float64: root of the summed
    squares over twelve draws, error over value, since a single draw's gradient may lie anywhere near 0.

    The gradient of the scores is drawn, not made by a loss: what is measured is the sum over gates.
    """
    error = {name: torch.zeros(2, dtype=torch.float64) for name in ("naive", "recompute")}
    value = torch.zeros(2, dtype=torch.float64)
    for seed in range(12):
        leaves, size = planted(seed)
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        pull_TB, weight_BP = torch.randn(size.T, size.B), torch.ones(size.B, size.P)
        expected = torch.stack(
            torch.autograd.grad((naive(exact, weight_BP.double()) * pull_TB).sum(), (exact[6], exact[5]))
        )
        value += expected.square()
        for name, total in error.items():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                if name == "naive":
                    score_TB = naive(leaves, weight_BP)
                else:
                    score_TB = compare_recomputing(arguments(leaves, weight_BP), evidence=False).score_TB
            found = torch.stack(torch.autograd.grad((score_TB * pull_TB).sum(), (leaves[6], leaves[5])))
            total += (found - expected).square()
    shares = {name: (total / value).sqrt().tolist() for name, total in error.items()}
    return {name: (bias, scale) for name, (bias, scale) in shares.items()}


def sweep() -> list[str]:
    """Time by block size, one round after another, at cxr-m and float32."""
    size = SIZES["cxr-m"]
    leaves, weight_BP = leaves_of(size), torch.ones(size.B, size.P)
    chosen = block_sizes(size.T, size.B, size.P, cache=cache_bytes(CPU), item_bytes=4)
    tried = [BlockSizes(sentences=s, volumes=v) for s, v in ((32, 1), (64, 1), (128, 1), (256, 1), (256, 4), (256, 32))]
    tried += [] if chosen in tried else [chosen]
    runs = {
        f"{one.sentences} × {one.volumes}": lambda one=one: step(
            lambda: recomputed(leaves, weight_BP, blocks=one), leaves
        )
        for one in tried
    }
    found = interleaved(runs, rounds=2)
    base = f"{chosen.sentences} × {chosen.volumes}"
    lines = [f"{name}: {ratio(found, name, base):.2f}" for name in runs]
    return [
        f"Chosen from a cache of {cache_bytes(CPU) / 2**20:.0f} MiB: {base}. Time over that, sentences × volumes: "
        + ", ".join(lines)
        + "."
    ]


def on_a_gpu() -> list[Row]:
    """Peak memory, time and share of the products' rate at the sizes of training; only where CUDA is present."""
    if not torch.cuda.is_available():
        return [Row("gpu_sga", "CXR, CT", "not run: no GPU here", "≤ 10 % act., ≤ 1.0 × autocast, ≥ 60 %", None)]
    device = torch.device("cuda")
    rows = []
    for name, size in {"CXR": Size(1536, 256, 1024, D=512), "CT": Size(512, 32, 8192, D=512)}.items():
        leaves, weight_BP = leaves_of(size, device=device), torch.ones(size.B, size.P, device=device)
        given = (leaves, weight_BP)
        plain = {"naive": partial(plain_loss, *given), "ours": partial(recomputed, *given)}
        peaks, times = {}, {}
        for kind, loss in plain.items():
            step(loss, leaves, bf16=True)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
            started = time.perf_counter()
            for _ in range(ROUNDS):
                step(loss, leaves, bf16=True)
            torch.cuda.synchronize()
            times[kind] = (time.perf_counter() - started) / ROUNDS
            peaks[kind] = torch.cuda.max_memory_allocated() - before - gradients
        side = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            side @ side
        torch.cuda.synchronize()
        rate = 10 * 2 * 8192**3 / (time.perf_counter() - started)
        share = size.gemm_flop * 8 / 6 / times["ours"] / rate
        kept, slower = peaks["ours"] / peaks["naive"], times["ours"] / times["naive"]
        measured = f"{100 * kept:.1f} % act., {slower:.2f} × autocast, {100 * share:.0f} % of {rate / 1e12:.0f} TFLOP/s"
        rows.append(
            Row(
                "gpu_sga",
                f"{name}: {size}",
                measured,
                "≤ 10 %, ≤ 1.0 ×, ≥ 60 %",
                kept <= 0.1 and slower <= 1 and share >= 0.6,
            )
        )
    return rows


def device_words() -> str:
    """Processor, its bfloat16, versions, load."""
    words = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines()[:40] if ":" in line)
    named = {key.strip(): value.strip() for key, value in words.items()}
    flags = named.get("flags", "").split()
    fast = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{named.get('model name', platform.processor())}, {os.cpu_count()} cores, one thread used, "
        f"bfloat16 by {fast[0] if fast else 'emulation: its times say nothing of a processor that has it'}; {gpu}; "
        f"PyTorch {torch.__version__}, Python {platform.python_version()}; load {os.getloadavg()[0]:.1f} from other work at the start."
    )


def table(folder: Path) -> tuple[list[Row], list[str]]:
    """All rows, and what else was measured."""
    compiled = subprocess.run(["which", "g++"], capture_output=True).returncode == 0
    recompute, one_pass = exactness()
    rows = [
        Row(
            "sga_exact",
            "small, float64",
            f"gradcheck passes; recompute {recompute:.0e}, one pass {one_pass:.0e}",
            "pass; ≤ 1e-12",
            max(recompute, one_pass) <= 1e-12,
        )
    ]
    error = shared_error(folder)
    rows.append(Row("sga_dist", "2 gloo ranks", f"{error:.0e}", "≤ 1e-12", error <= 1e-12))
    notes = []
    for name, limit, total_limit in (("cxr-l", 0.08, 0.3), ("ct-l", 0.10, 0.4)):
        base = memory(name, "naive, fp32")
        for variant in ("recompute, fp32", "recompute, bf16", "one pass, fp32"):
            kept, total = memory(name, variant)
            share, whole = kept / base[0], total / base[1]
            rows.append(
                Row(
                    "sga_mem",
                    f"{name}, {variant}",
                    f"{kept:.0f} of {base[0]:.0f} MiB, {100 * share:.1f} %; total {100 * whole:.0f} %",
                    f"≤ {100 * limit:.0f} %; total ≤ {100 * total_limit:.0f} %",
                    share <= limit and whole <= total_limit,
                )
            )
    times = {
        (name, bf16): timed(SIZES[name], bf16=bf16, compiled=compiled and bf16, one_pass=name == "cxr-m")
        for name in ("cxr-m", "ct-m")
        for bf16 in (False, True)
    }
    for name in ("cxr-m", "ct-m"):
        value = ratio(times[name, False], "recompute", "naive")
        rows.append(Row("sga_time32", name, f"{value:.2f} ×", "≤ 1.25 × naive fp32", value <= 1.25))
    for name in ("cxr-m", "ct-m"):
        kinds = [kind for kind in ("recompute", "recompute, fused") if kind in times[name, True]]
        values = {kind: ratio(times[name, True], kind, "naive") for kind in kinds}
        rows.append(
            Row(
                "sga_time16",
                name,
                ", ".join(f"{kind} {value:.2f} ×" for kind, value in values.items()),
                "≤ 1.0 × naive autocast",
                min(values.values()) <= 1,
            )
        )
    value = ratio(times["cxr-m", False], "one pass", "naive sigmoid")
    rows.append(Row("sga_onepass", "cxr-m", f"{value:.2f} ×", "≤ 0.9 × its naive", value <= 0.9))
    for bf16, limit in ((False, 0.75), (True, 0.45)):
        found = times["cxr-m", bf16]
        kinds = [kind for kind in ("one pass", "one pass, fused") if kind in found]
        shares = {kind: ratio(found, "products", kind) for kind in kinds}
        rate = SIZES["cxr-m"].gemm_flop / statistics.median(found["products"]) / 1e9
        words = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items())
        rows.append(
            Row(
                "sga_gemm",
                f"cxr-m, {'bf16' if bf16 else 'fp32'}",
                f"{words} of {rate:.0f} GFLOP/s",
                f"≥ {100 * limit:.0f} %",
                max(shares.values()) >= limit,
            )
        )
    errors = bias_errors()
    bias, scale = errors["recompute"]
    rows.append(
        Row(
            "sga_dbias16",
            "8 volumes × 8 sentences × 784 patches",
            f"bias {100 * bias:.2f} %, scale {100 * scale:.2f} % (naive autocast {100 * errors['naive'][0]:.0f} %, {100 * errors['naive'][1]:.1f} %)",
            "≤ 2 %",
            max(bias, scale) <= 0.02,
        )
    )
    rows += on_a_gpu()
    notes += sweep()
    return rows, notes


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory_of(*args.memory)
        return
    import tempfile

    torch.set_num_threads(1)
    device, started = device_words(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, notes = table(Path(folder))
    sizes = "; ".join(f"{name}: {size}" for name, size in SIZES.items())
    text = "\n".join(
        [
            "# The gate",
            "",
            f"`python benchmarks/gate.py`, {(time.monotonic() - started) / 60:.1f} minutes. {device}",
            "",
            f"{sizes}. Ratios are medians over {ROUNDS} interleaved rounds of processor time, forward and backward pass.",
            "",
            "| name | size | measured | gate | |",
            "|---|---|---|---|---|",
            *map(str, rows),
            "",
            *notes,
            "",
        ]
    )
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
