"""Reading for training at 512 x 512: sidecar shards against one merged WebDataset tar, and the file formats.

    python -m benchmarks.reading [--faces FOLDER]

One process, one thread. Without a folder, procedural faces; with one, its 512 x 512 pictures. I_F, I_G,
I_warp and I_AP are stand-ins, made without networks; all readers get the same bytes.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks.timing import ratio
from cfpp.config import Params, load_params
from cfpp.data.components import component_mask
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.folder import list_faces, place_of_face
from cfpp.data.manifest import Manifest, ShardRow, shard_path
from cfpp.data.pictures import Picture, decode, decode_photo, encode_png
from cfpp.data.procedural import render
from cfpp.data.samples import FOLDERS, Batches, SampleStore
from cfpp.data.shards import write_shard
from cfpp.evaluation.metrics import psnr, texture_ratio
from cfpp.objectives.texture import TextureSpec
from cfpp.storage import read_bytes

SIZE = 512
FACES = 48  # each is read as it is and mirrored
RUNS = 5
DECODES = 3
BUFFER = 64  # samples in WebDataset's shuffle buffer
CROP = 4  # pixels off a photo's top and left: its own JPEG blocks must not meet ours

Sample = tuple[str, dict[str, bytes]]
"""A key, and its members by column: "hq", "lq", ..., "meta"."""


@dataclass(frozen=True)
class Format:
    """How a picture is stored: file name ending and OpenCV's encoder settings."""

    name: str
    ending: str
    settings: tuple[int, ...]


class Measured(NamedTuple):
    """One face in one format: bytes, seconds, dB, share of the fine detail, whether nothing is lost."""

    bytes: int
    encode: float
    decode: float
    psnr: float
    texture: float
    equal: bool


_LEVEL, _UP = cv2.IMWRITE_PNG_COMPRESSION, (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
_444 = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
FORMATS = (
    Format("PNG, level 1", ".png", (_LEVEL, 1)),
    Format("PNG, level 1, filter Up", ".png", (_LEVEL, 1, *_UP)),
    Format("PNG, level 3", ".png", (_LEVEL, 3)),
    Format("PNG, level 3, filter Up", ".png", (_LEVEL, 3, *_UP)),
    Format("WebP, lossless", ".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    Format("JPEG 95, 4:4:4", ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 95, *_444)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, help="a folder of 512 x 512 faces")
    folder = parser.parse_args().faces
    cv2.setNumThreads(1)
    params = load_params()
    if folder is None:
        faces = stored = [render(0, identity, 0, SIZE).picture for identity in range(FACES)]
    else:
        faces = photos(folder)
        stored = [np.ascontiguousarray(face[CROP:, CROP:]) for face in faces]
    compare_formats(stored)
    compare_readers(samples(faces, params), params)


def photos(folder: Path) -> list[Picture]:
    """The first 512 x 512 pictures of a folder."""
    sources = (face.source for face in list_faces(folder).faces)
    pictures = (decode_photo(read_bytes(place_of_face(folder, source))) for source in sources)
    found = list(itertools.islice((p for p in pictures if p.shape == (SIZE, SIZE, 3)), FACES))
    if not found:
        raise SystemExit(f"{folder}: no picture is {SIZE} x {SIZE}")
    return found


def compare_formats(faces: Sequence[Picture]) -> None:
    """A table of sizes, times and losses; the formats take turns face by face."""
    print(f"\n{len(faces)} faces of {faces[0].shape[0]} x {faces[0].shape[1]}, medians; PSNR: mean, least\n")
    print("| format | kB | encode, ms | decode, ms | PSNR, dB | texture ratio |\n|---|---|---|---|---|---|")
    rows: dict[str, list[Measured]] = {form.name: [] for form in FORMATS}
    for face, form in itertools.product(faces, FORMATS):
        rows[form.name].append(measure(face, form))
    for name, measured in rows.items():
        size, encode, decode_, decibels, texture, equal = zip(*measured, strict=True)
        loss = "exact" if all(equal) else f"{statistics.mean(decibels):.1f}, {min(decibels):.1f}"
        times = " | ".join(f"{statistics.median(seconds) * 1e3:.1f}" for seconds in (encode, decode_))
        kilobytes = statistics.median(size) / 1e3
        print(f"| {name} | {kilobytes:.0f} | {times} | {loss} | {statistics.mean(texture):.3f} |")


def measure(face: Picture, form: Format) -> Measured:
    """Encode and decode one face."""
    pixels = np.ascontiguousarray(face[..., ::-1])
    start = time.perf_counter()
    data = bytes(cv2.imencode(form.ending, pixels, form.settings)[1])
    encoding, decoding = time.perf_counter() - start, []
    for _ in range(DECODES):
        start = time.perf_counter()
        found = decode(data)
        decoding.append(time.perf_counter() - start)
    decibels, texture = (float(figure(found[None], face[None])[0]) for figure in (psnr, texture_ratio))
    equal = np.array_equal(found, face)
    return Measured(len(data), encoding, statistics.median(decoding), decibels, texture, equal)


def compare_readers(made: list[Sample], params: Params) -> None:
    """Samples per second of the columns that TGRN is trained on, each reader in its training order."""
    columns = TextureSpec(params.train_tgrn, SIZE, "", "", procedural=False).columns
    with tempfile.TemporaryDirectory() as name:
        merged, root = Path(name, "merged.tar"), Path(name, "project")
        write_merged(merged, made, columns)
        write_project(root, made, params.data.shard_size)
        start = time.perf_counter()
        store = SampleStore(root, "train", columns)
        opening = (time.perf_counter() - start) * 1e3
        print(f"\n{len(store)} samples of {', '.join(columns)}; the store opens in {opening:.0f} ms")
        print("\n| against | WebDataset, samples/s | sidecar, samples/s | ratio |\n|---|---|---|---|")
        sidecar, plain = sidecar_reader(store), plain_reader(merged, columns)
        stock = stock_reader(merged, columns)
        row("WebDataset with our decoder", len(made), plain, sidecar)
        row("WebDataset's own decoder, rgb8", len(made), stock, sidecar)
        tars = [merged, *root.rglob("*.tar")]
        row("our decoder, no page cached", len(made), uncached(plain, tars), uncached(sidecar, tars))


def row(what: str, count: int, baseline: Callable[[], object], candidate: Callable[[], object]) -> None:
    """One line of the readers' table."""
    slow, fast = ratio(baseline, candidate, RUNS)
    print(f"| {what} | {count / slow:.1f} | {count / fast:.1f} | {slow / fast:.2f} |", flush=True)


def sidecar_reader(store: SampleStore) -> Callable[[], None]:
    """One epoch in the order of training, another one at each call."""
    order, places = Batches(store, batch_size=1, seed=0), itertools.count()

    def read() -> None:
        for place in itertools.islice(places, len(store)):
            store.pictures(*order.indices(place))

    return read


def plain_reader(tar: Path, columns: Sequence[str]) -> Callable[[], None]:
    """Sequential reading, shuffled in a buffer, with the sidecar reader's decoder."""
    import webdataset

    def decoded(sample: dict[str, bytes]) -> dict[str, Picture]:
        return {name: decode(sample[f"{name}.png"]) for name in columns}

    def read() -> None:
        for _ in webdataset.WebDataset(str(tar), shardshuffle=False).shuffle(BUFFER).map(decoded):
            pass

    return read


def stock_reader(tar: Path, columns: Sequence[str]) -> Callable[[], None]:
    """The same with WebDataset's decoder (Pillow)."""
    import webdataset

    wanted = [f"{name}.png" for name in columns]

    def read() -> None:
        dataset = webdataset.WebDataset(str(tar), shardshuffle=False).shuffle(BUFFER)
        for _ in dataset.decode("rgb8", only=wanted).to_tuple(*wanted):
            pass

    return read


def uncached(read: Callable[[], None], files: Sequence[Path]) -> Callable[[], None]:
    """`read` from the disk: the system first forgets the files."""

    def forgotten() -> None:
        for path in files:
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        read()

    return forgotten


def samples(faces: Sequence[Picture], params: Params) -> list[Sample]:
    """Every column of each face, as it is and mirrored."""
    both = [view for face in faces for view in (face, np.ascontiguousarray(face[:, ::-1]))]
    mask = np.rint(component_mask(len(faces[0]), params.pair.feather) * 255).astype(np.uint8)
    made = []
    for place, face in enumerate(both):
        key = f"f{place:05d}"
        pictures = stand_ins(face, mask, key, params)
        made.append((key, {"meta": b"{}", **{name: encode_png(item) for name, item in pictures.items()}}))
    return made


def stand_ins(face: Picture, mask: Picture, key: str, params: Params) -> dict[str, Picture]:
    """A face's columns, made without networks: I_F a little blurred, I_G sharpened and half a pixel off."""
    rng = generator(0, "bench", key)
    blurred = cv2.GaussianBlur(face, (0, 0), 0.7)
    sharp = cv2.addWeighted(face, 1.5, blurred, -0.5, 0)
    warped = cv2.warpAffine(sharp, np.array([[1, 0, 0.5], [0, 1, 0.5]]), face.shape[:2])
    share = mask[..., None] / 255
    return {
        "hq": face,
        "lq": apply(face, draw(params.degradation.large, rng), rng),
        "id": blurred,
        "gp": sharp,
        "warp": warped,
        "ap": np.rint(share * blurred + (1 - share) * warped).astype(np.uint8),
        "mask": mask,
    }


def write_merged(path: Path, made: Sequence[Sample], columns: Sequence[str]) -> None:
    """These columns of every sample in one tar, and no others that its reader would have to pass over."""
    write_shard(path, ((key, {file_name(column): m[column] for column in columns}) for key, m in made))


def write_project(root: Path, made: Sequence[Sample], shard_size: int) -> None:
    """The same samples as the train shards and manifests of the stages."""
    for folder in ("shards", "restored", "pairs"):
        stage, manifest = root / "data" / folder, Manifest()
        for shard, start in enumerate(range(0, len(made), shard_size)):
            part = made[start : start + shard_size]
            file = write_shard(shard_path(stage, "train", shard), members_of(folder, part))
            manifest.put(ShardRow("train", shard, file.count, file.bytes, file.sha256, "", "", 0), ())
        manifest.save(stage)


def members_of(folder: str, made: Sequence[Sample]) -> Iterator[Sample]:
    """What a stage's shards hold of the samples, each of one variant."""
    variant = "" if folder == "shards" else "0."
    for key, members in made:
        own = {column: data for column, data in members.items() if FOLDERS.get(column, "shards") == folder}
        if folder == "restored":
            own["draw"] = b"{}"
        yield key, {variant + file_name(column): data for column, data in sorted(own.items())}


def file_name(column: str) -> str:
    """A column's name in a tar."""
    return f"{column}.json" if column in ("meta", "draw") else f"{column}.png"


if __name__ == "__main__":
    main()
