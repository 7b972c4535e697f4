"""`glint compare`: two evaluations side by side."""

import argparse
from pathlib import Path

HELP = "two evaluations, or two arms of one, on the studies that both measured: differences, intervals, p values"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two evaluations and where the page goes."""
    parser.add_argument("first", type=Path, help="folder of an evaluation, such as results/ct/10_evaluate")
    parser.add_argument("second", type=Path, help="another, or the same with another arm")
    parser.add_argument("--arms", nargs=2, default=("glint", "glint"), metavar="ARM", help="default: glint glint")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for compare.html and compare.json (default: here)"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of patients (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of resamples and exchanges (default 0)")


def run(args: argparse.Namespace) -> None:
    """Compare, write the page, say the main numbers."""
    from glint.core.errors import InputError
    from glint.evaluation.compare import compare_cases, read_cases, write_comparison
    from glint.evaluation.summary import MACRO

    if args.first == args.second and args.arms[0] == args.arms[1]:
        raise InputError(f"{args.first}: the same arm of the same evaluation twice; name two with --arms")
    first, second = (read_cases(folder, arm) for folder, arm in zip((args.first, args.second), args.arms, strict=True))
    names = (args.arms[0], args.arms[1])
    if args.first != args.second:
        names = (f"{args.first} {args.arms[0]}", f"{args.second} {args.arms[1]}")
    comparison = compare_cases(first, second, names=names, resamples=args.resamples, seed=args.seed)
    write_comparison(comparison, args.out)
    for one in comparison.contrasts:
        if one.finding == MACRO:
            p = f", p {one.p:.3f}" if one.p == one.p else ""
            print(
                f"{one.metric:18} {one.first:7.3f} {one.second:7.3f}  difference {one.difference:+.3f} "
                f"({one.low:+.3f} to {one.high:+.3f}){p}"
            )
    print(f"page: {args.out / 'compare.html'}")
