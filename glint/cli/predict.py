"""`glint predict`: one study and sentences → whether, how surely, where."""

import argparse
from pathlib import Path

HELP = "ask a trained model about one study: score, mask, box, picture for every sentence"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the study, the sentences, the model and where to write."""
    parser.add_argument("study", type=Path, help="DICOM folder, .nii[.gz] in HU, or a film (.dcm, .png, .jpg)")
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="SENTENCE",
        help="may be given again; a finding's name works too",
    )
    parser.add_argument(
        "--queries", type=Path, metavar="FILE", help="text file with a sentence per line; # starts a remark"
    )
    parser.add_argument(
        "--model", type=Path, default=Path("results/ct/09_train/glint"), help="checkpoint folder (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("prediction"), help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--no-seg", action="store_true", help="write no DICOM SEG, which names the patient as its source does"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs, such as cuda (default: cpu)")


def read_queries(given: list[str], file: Path | None) -> list[str]:
    """Sentences of the command line, then those of the file.

    Raises:
        InputError: the file is absent, or there is no sentence at all.
    """
    from glint.core.errors import InputError

    lines: list[str] = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: not a text file in UTF-8 that can be read; one sentence per line") from error
    queries = [*given, *(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))]
    if not queries:
        raise InputError("nothing is asked; give --query 'small right pleural effusion' or --queries FILE")
    return queries


def run(args: argparse.Namespace) -> None:
    """Ask, write, tell."""
    from glint.core.errors import InputError, Quarantine

    queries = read_queries(args.query, args.queries)
    from glint import Glint
    from glint.predict import predict
    from glint.predict.outputs import write_prediction

    model = Glint.from_pretrained(args.model, device=args.device)
    try:
        prediction = predict(model, args.study, queries)
    except Quarantine as refusal:
        raise InputError(f"{args.study}: refused, {refusal.reason}: {refusal.detail}") from None
    told = write_prediction(prediction, args.out, dicom_seg=not args.no_seg)
    for row in told["replies"]:
        place = f"box {row['boxes_zyx'][0]}" if row["boxes_zyx"] else "no region"
        found = "present " if row["present"] else "not found"
        print(f"{found:9} {row['probability']:.2f}  {row['query']}  ({place})")
    for note in told["notes"]:
        print(f"note: {note}")
    print(f"written: {args.out}")
