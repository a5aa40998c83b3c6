"""`cfpp testset`: make the folders that restorers are measured on."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpp.errors import MendableError

if TYPE_CHECKING:
    from cfpp.evaluation.testsets import TestSet


_LEAST_SIDE = 32  # pixels, as `cfpp evaluate` has it


def add_parser(commands: Any) -> None:
    """Add `testset` to the sub-parsers of argparse."""
    testset = commands.add_parser("testset", help="make a test set of clean faces or of raw photographs")
    kinds = testset.add_subparsers(dest="kind", required=True)

    synthetic = kinds.add_parser("synthetic", help="degrade clean aligned faces: hq/, lq/ and testset.json")
    synthetic.add_argument("folder", type=Path, help="clean aligned faces, searched recursively")
    synthetic.add_argument("out", type=Path, help="folder to make")
    synthetic.add_argument("--seed", type=int, help="default: run.seed of params.yaml")
    synthetic.add_argument("--size", type=int, help="side of the faces, pixels; default: run.size")
    synthetic.set_defaults(run=_synthetic)

    aligned = kinds.add_parser("align", help="find the faces of raw photographs and align them")
    aligned.add_argument("photographs", type=Path, help="folder of photographs, searched recursively")
    aligned.add_argument("out", type=Path, help="folder to make")
    aligned.add_argument("--size", type=int, default=512, help="side of the faces, pixels")
    aligned.add_argument("--confidence", type=float, default=0.8, help="least score of a face, 0 to 1")
    aligned.add_argument(
        "--detector",
        choices=("resnet50", "mobile0.25"),
        help="RetinaFace's backbone; default: whichever lies in weights.root, ResNet-50 first",
    )
    aligned.set_defaults(run=_align)


def _synthetic(options: argparse.Namespace) -> None:
    from cfpp.config import load_params
    from cfpp.evaluation.testsets import make_synthetic
    from cfpp.schema import require

    params = load_params()
    size = params.run.size if options.size is None else options.size
    seed = params.run.seed if options.seed is None else options.seed
    require(size >= _LEAST_SIDE, "--size", f"be {_LEAST_SIDE} or more", size)
    require(seed >= 0, "--seed", "be 0 or more", seed)
    made = make_synthetic(
        options.folder,
        options.out,
        limits=params.degradation.large,
        kernel_size=params.degradation.kernel_size,
        seed=seed,
        size=size,
    )
    _tell(options.out, made)


def _align(options: argparse.Namespace) -> None:
    from cfpp.config import load_params
    from cfpp.evaluation.testsets import align_photographs
    from cfpp.models.face_detector import FaceDetector
    from cfpp.schema import require

    require(options.size >= _LEAST_SIDE, "--size", f"be {_LEAST_SIDE} or more", options.size)
    require(0 < options.confidence < 1, "--confidence", "be above 0 and below 1", options.confidence)
    detector = FaceDetector.load(load_params().weights.root, options.detector)
    made = align_photographs(
        options.photographs, options.out, detector, size=options.size, confidence=options.confidence
    )
    _tell(options.out, made)


def _tell(out: Path, made: "TestSet") -> None:
    print(
        f"{out}: faces: {made.faces}; left out: {len(made.left_out)} of {made.files} files, "
        f"single faces: {len(made.faces_left_out)}; altered: {len(made.altered)}"
    )
    if made.ignored:
        print(f"Ignored: {len(made.ignored)}, such as {made.ignored[0]}")
    if made.left_out:
        raise MendableError(
            f"{len(made.left_out)} of {made.files} files left out; "
            f"{out / 'testset.json'} names them under left_out"
        )
