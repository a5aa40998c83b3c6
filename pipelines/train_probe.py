"""Makes the face probe that comes with the package: landmarks and identity of procedural faces.

    python -m pipelines.train_probe             # about half an hour on two cores

Its people are numbered from 1,000,000 and drawn with another seed than the demo's, so the demo's test
faces are new to it. Run it again when the look of the procedural faces changes.
"""

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cfpp.config import DegradationRange
from cfpp.data.degradation import apply, draw
from cfpp.data.draws import generator
from cfpp.data.fingerprint import fingerprint
from cfpp.data.procedural.render import render
from cfpp.evaluation.identity import probe_outputs
from cfpp.evaluation.metrics import landmark_error
from cfpp.evaluation.verification import auc, equal_error_rate, pair_scores
from cfpp.models.probe import SIDE, Probe
from cfpp.models.weights import Card, save_model
from cfpp.objectives.probe import NOBODY, ProbeObjective

log = logging.getLogger("pipelines.train_probe")

FIRST_IDENTITY = 1_000_000
AUGMENTATION = DegradationRange(sigma=(0.1, 10.0), downsample=(1.0, 12.0), noise=(0.0, 15.0), jpeg=(40, 100))


@dataclass(frozen=True)
class ProbeTraining:
    """Everything that decides the weights, besides the code."""

    seed: int = 7341
    identities: int = 340
    held_out_identities: int = 40
    shots: int = 3
    steps: int = 5000
    batch_size: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    degraded_share: float = 0.6
    sharpened_share: float = 0.3
    warped_share: float = 0.75


@dataclass(frozen=True)
class Faces:
    """Rendered faces in memory: pictures [N, 128, 128, 3], landmarks [N, 68, 2], people [N] from 0."""

    pictures: np.ndarray
    landmarks: np.ndarray
    people: np.ndarray

    def of(self, chosen: np.ndarray) -> "Faces":
        return Faces(self.pictures[chosen], self.landmarks[chosen], self.people[chosen])


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("cfpp/data/embedded/probe"))
    parser.add_argument("--faces", type=Path, help="npz of the rendered faces; made when it is not there")
    parser.add_argument("--processes", type=int, default=2, help="rendering processes")
    parser.add_argument("--threads", type=int, default=2, help="training threads")
    options = parser.parse_args()
    training = ProbeTraining()
    faces = rendered_faces(training, options.faces, options.processes)
    known = faces.people < training.identities
    torch.set_num_threads(options.threads)
    probe = train(training, faces.of(known))
    figures = held_out_figures(training, probe, faces.of(~known))
    log.info("held out: %s", figures)
    write(options.out, probe, training, figures)


def rendered_faces(training: ProbeTraining, cache: Path | None, processes: int) -> Faces:
    """The training and the held-out people, the latter last."""
    drawn_by = (training.seed, training.identities, training.held_out_identities, training.shots, SIDE)
    made_of = fingerprint("probe faces", drawn_by, code=["cfpp.data.procedural.render"])
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            if str(stored["made_of"]) != made_of:
                raise SystemExit(f"{cache}: of other people or of another renderer; remove it")
            return Faces(stored["pictures"], stored["landmarks"], stored["people"])
    people = training.identities + training.held_out_identities
    jobs = [
        (training.seed, FIRST_IDENTITY + who, shot) for who in range(people) for shot in range(training.shots)
    ]
    with ProcessPoolExecutor(processes) as pool:
        drawn = list(tqdm(pool.map(_render, jobs, chunksize=8), total=len(jobs), desc="faces"))
    faces = Faces(
        np.stack([picture for picture, _ in drawn]),
        np.stack([points for _, points in drawn]).astype(np.float32),
        np.array([identity - FIRST_IDENTITY for _, identity, _ in jobs]),
    )
    if cache is not None:
        np.savez(
            cache,
            made_of=np.array(made_of),
            pictures=faces.pictures,
            landmarks=faces.landmarks,
            people=faces.people,
        )
    return faces


def train(training: ProbeTraining, faces: Faces) -> Probe:
    """The trained probe, in evaluation mode."""
    torch.manual_seed(training.seed)
    probe, objective = Probe(), ProbeObjective(training.identities)
    optimiser = torch.optim.AdamW(
        [*probe.parameters(), *objective.parameters()],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )
    bar = tqdm(range(training.steps), desc="probe")
    for step in bar:
        pictures, landmarks, people = _batch(training, faces, step)
        with torch.autocast("cpu", torch.bfloat16):
            points, embeddings = probe(pictures)
        loss, parts = objective((points, embeddings.float()), landmarks, people)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix({name: f"{value.item():.3f}" for name, value in parts.items()})
    return probe.eval()


def held_out_figures(training: ProbeTraining, probe: Probe, faces: Faces) -> dict[str, float]:
    """Accuracy on people that the probe has never seen, on clean and on degraded pictures."""
    rng = generator(training.seed, "held-out")
    worse = np.stack([apply(p, draw(AUGMENTATION, rng), rng=rng) for p in faces.pictures])
    points, clean = probe_outputs(probe, faces.pictures)
    worse_points, degraded = probe_outputs(probe, worse)
    people = [str(person) for person in faces.people]
    same, different = pair_scores(clean, clean, people)
    same_degraded, different_degraded = pair_scores(clean, degraded, people)
    figures = {
        "faces": float(len(people)),
        "landmark_error_percent_interocular": float(landmark_error(points, faces.landmarks).mean()),
        "landmark_error_degraded": float(landmark_error(worse_points, faces.landmarks).mean()),
        "verification_auc": auc(same, different),
        "verification_eer": equal_error_rate(same, different),
        "verification_auc_degraded": auc(same_degraded, different_degraded),
        "verification_eer_degraded": equal_error_rate(same_degraded, different_degraded),
        "cosine_same_person": float(same.mean()),
        "cosine_other_person": float(different.mean()),
        "cosine_same_picture_degraded": float((clean * degraded).sum(axis=1).mean()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def write(folder: Path, probe: Probe, training: ProbeTraining, figures: dict[str, float]) -> None:
    """`model.safetensors` (float16) and `card.json`."""
    config = asdict(training) | {
        "purpose": "68 landmarks and identity of the embedded procedural faces; not for photographs",
        "made_by": "python -m pipelines.train_probe",
        "first_identity": FIRST_IDENTITY,
        "side": SIDE,
    }
    card = Card(kind="probe", config=config, steps=training.steps, source="procedural faces", metrics=figures)
    save_model(folder, probe, card, dtype=torch.float16)


def _render(job: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    face = render(*job, SIDE)
    return face.picture, face.landmarks68


def _batch(training: ProbeTraining, faces: Faces, step: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator(training.seed, "batch", step)
    chosen = rng.choice(len(faces.people), training.batch_size, replace=False)
    people = faces.people[chosen]
    pictures, landmarks = [], []
    for place, index in enumerate(chosen):
        picture, points = faces.pictures[index], faces.landmarks[index]
        if rng.random() < training.warped_share:
            # Landmarks must follow the picture and not the average face. A changed face is nobody's.
            picture, points = _warp(picture, points, rng)
            people[place] = NOBODY
        picture, points = _jitter(picture, points, rng)
        if rng.random() < training.degraded_share:
            picture = apply(picture, draw(AUGMENTATION, rng), rng=rng)
        if rng.random() < training.sharpened_share:
            # A restored face has crisp texture that was not there: where it is must not move a landmark.
            picture = _sharpen(picture, rng)
        pictures.append(picture)
        landmarks.append(points)
    stacked = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    return stacked, torch.from_numpy(np.stack(landmarks)), torch.from_numpy(people)


def _warp(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random displacement of a few pixels."""
    coarse = rng.standard_normal((6, 6, 2)) * rng.uniform(1, 3.5)
    flow = cv2.resize(coarse.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    columns, rows = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32))
    moved = cv2.remap(
        picture,
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    # The picture at x shows what was at x + flow(x): solve x + flow(x) = point by fixed-point steps.
    target = points
    for _ in range(4):
        at = np.clip(np.rint(target).astype(int), 0, SIDE - 1)
        target = points - flow[at[:, 1], at[:, 0]]
    return moved, target.astype(np.float32)


def _jitter(
    picture: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A small rotation, scale and shift, and a small change of contrast and brightness."""
    centre = (SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), rng.uniform(-4, 4), rng.uniform(0.95, 1.05))
    matrix[:, 2] += rng.uniform(-3, 3, 2)
    moved = cv2.warpAffine(picture, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    lit = np.clip(moved * rng.uniform(0.94, 1.06) + rng.uniform(-6, 6), 0, 255).astype(np.uint8)
    return lit, (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _sharpen(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An unsharp mask, and grain of a drawn coarseness."""
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.7, 2.5)).astype(np.float32)
    grain = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.5, 1.5))
    grain *= rng.uniform(0, 10) / grain.std()
    sharp = picture + rng.uniform(0.3, 2.5) * (picture - blurred) + grain[..., None]
    return np.asarray(np.clip(np.rint(sharp), 0, 255), np.uint8)


if __name__ == "__main__":
    main()
