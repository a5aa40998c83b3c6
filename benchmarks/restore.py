"""`cfpp restore` on aligned 512 x 512 faces against a plain loop over the same model.

    python -m benchmarks.restore [--models FOLDER] [--batch N] [--faces N] [--runs N]

The plain loop reads a face, restores it and writes it, one after the other; both write the same files. Then
the time from the start of a process to its first picture, and the peak memory for 50 and for 200 faces.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from benchmarks.timing import ratio, report
from cfpp.data.picture_files import read_picture_file, write_picture_file
from cfpp.data.pictures import encode_png
from cfpp.data.procedural import render
from cfpp.data.work_list import WorkList
from cfpp.progress import progress_bar
from cfpp.restoration.restorer import Restorer
from cfpp.restoration.stream import Settings, model_threads, restore_files
from cfpp.restoration.tasks import AlignedFaces

SIZE = 512
FACES = 100
COUNTS = (50, 200)
STARTS = 3

# What a child process runs: the command, then its peak memory, kB.
CHILD = """
import resource, sys
from cfpp.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of prior, dam and tgrn")
    parser.add_argument("--batch", type=int, default=Settings.batch_size, help="faces per forward pass")
    parser.add_argument("--faces", type=int, default=FACES, help="for the comparison with the plain loop")
    parser.add_argument("--runs", type=int, default=5, help="turns of either side")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cfpp-") as name:
        folder, out = Path(name, "in"), Path(name, "out")
        make_faces(folder, options.faces)
        plain, batched = sides(folder, out, Restorer.load(options.models), options.batch)
        report(
            f"{options.faces} aligned faces, batches of {options.batch}", *ratio(plain, batched, options.runs)
        )
        seconds = [first_picture(options.models, folder / "000.png", out) for _ in range(STARTS)]
        print(f"start-up to first picture: {statistics.median(seconds):.1f} s, median of {STARTS}")
        for count in COUNTS:
            print(f"peak memory, {count} faces: {peak(options.models, folder, Path(name), count):.0f} MiB")


def make_faces(folder: Path, count: int) -> None:
    """Procedural faces as PNG."""
    folder.mkdir()
    bar = progress_bar(count, "procedural faces", "face")
    for place in range(count):
        (folder / f"{place:03d}.png").write_bytes(encode_png(render(0, place, 0, SIZE).picture))
        bar.update(1)
    bar.close()


def sides(
    folder: Path, out: Path, restorer: Restorer, batch: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The plain loop, and the command's own way."""
    works = WorkList.plan([str(folder)], out).works

    def plain() -> None:
        out.mkdir(exist_ok=True)
        for work in works:
            file = read_picture_file(work.source.read_bytes())
            [face] = restorer.restore(file.rgb[None])
            write_picture_file(work.target, face, file)

    def batched() -> None:
        task = AlignedFaces(restorer, restorer.size)
        settings = Settings(batch, overwrite=True, models=model_threads(restorer.device))
        for outcome in restore_files(works, task, restorer.restore, settings):
            assert outcome.status == "restored", outcome.notes

    return plain, batched


def first_picture(models: Path, face: Path, out: Path) -> float:
    """Seconds that a new process takes to its first picture, as it says."""
    told = child(["restore", str(face), str(out), "--aligned", "--overwrite", "--model", str(models)])
    return float(told.split("First picture after ")[1].split()[0])


def peak(models: Path, faces: Path, folder: Path, count: int) -> float:
    """Peak memory of a new process, MiB."""
    several = folder / f"faces{count}"
    several.mkdir()
    known = sorted(faces.iterdir())
    for place in range(count):
        shutil.copyfile(known[place % len(known)], several / f"{place:03d}.png")
    told = child(["restore", str(several), str(folder / f"out{count}"), "--aligned", "--model", str(models)])
    return int(told.split("peak ")[1]) / 1024


def child(arguments: Sequence[str]) -> str:
    """What the command prints."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    cv2.setNumThreads(1)
    main(sys.argv[1:])
