"""The two walks of `cfpp lineage`: from a face to the models that learnt from it, and from a model back.

Both yield lines as (heading, text). What the manifests, cards and tags do not tell is said to be unknown.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfpp.audit.faces import Face, describe, find_face
from cfpp.audit.stages import STAGES
from cfpp.audit.trainings import Trained, data_identities, origins, trained_models
from cfpp.config import Params
from cfpp.data.manifest import SPLITS
from cfpp.lineage import MANIFEST, file_hash, params_hash
from cfpp.models.weights import Card
from cfpp.registry.provenance import (
    Version,
    all_versions,
    find_version,
    open_store,
    package_cards,
    training_runs,
)
from cfpp.restoration.restorer import PARTS
from cfpp.storage import Place, place_of

Line = tuple[str, str]
_HELD_OUT = {
    "val": "held out (val): looked at while training, not trained on",
    "test": "held out (test): not trained on",
}


def walk_face(params: Params, root: Path, key: str) -> Iterator[Line]:
    """From a key to its source, shards, sidecars, trainings and model versions.

    Raises:
        DataError: no face has that key; the message names some that look like it.
        ShardError: a shard on the way is damaged.
        StorageError: the storage does not answer.
    """
    storage = place_of(params.storage.root, root)
    face, here = find_face(storage, key), data_identities(storage)
    yield from describe(face, _source(params, root))
    if not face.folders:
        yield "trainings", "none: no training sees a quarantined face"
    elif face.split in _HELD_OUT:
        yield "trainings", _HELD_OUT[face.split]
    else:
        yield from _trainings(face, here, trained_models(root, storage))
    store = open_store(params.mlflow, root)
    versions = all_versions(store, params.mlflow.model_name) if store else []
    if not versions:
        yield "versions", f"no version of {params.mlflow.model_name} is registered"
    for version in versions:
        yield "version", f"{version.title}: {_part_in(face, version, here, root)}"


def walk_model(params: Params, root: Path, reference: str) -> Iterator[Line]:
    """From a model version to its parts, their trainings and their data.

    Args:
        reference: a number, an alias, models:/NAME/NUMBER or models:/NAME@ALIAS.

    Raises:
        RegistryError: there is no such version.
        StorageError: the storage does not answer.
    """
    storage, store = place_of(params.storage.root, root), open_store(params.mlflow, root)
    version = find_version(store, params.mlflow.model_name, reference)
    tags = defaultdict(lambda: "unknown", version.tags)
    yield "model", f"{version.title}, registered {version.created:%Y-%m-%d %H:%M} UTC"
    yield "verified", f"{tags['verified']} (number of test faces that the package restored as models/ did)"
    yield "code", f"git commit {tags['git_commit']}; dvc.lock {tags['dvc_lock_md5']}"
    same = "those" if tags["params_hash"] == params_hash(params) else "not those"
    yield "params", f"{tags['params_hash'][:12]}, {same} of the present params.yaml"
    yield "MLflow", f"run {tags['parent_run']}, its stage register {tags['stage_run']}"
    figures = [f"{name[9:]} {value}" for name, value in sorted(tags.items()) if name.startswith("eval.out.")]
    yield "I_out", ", ".join(figures) or "no figures"
    walk = _Cards(trained_models(root, storage), data_identities(storage), training_runs(store))
    cards = package_cards(version, PARTS) or walk.named_by(version)
    for part in PARTS:
        if part in cards:
            yield from walk.back(part, cards[part])
        elif f"{part}.sha256" in version.tags:
            weights = f"sha256 {tags[f'{part}.sha256'][:12]}, by {tags[f'{part}.trained_by']}"
            yield part, f"{weights}; its card is not within reach"
    yield from _data(version, storage, root)
    yield "source", f"{_source(params, root)}; cfpp lineage KEY follows one face"


def _trainings(face: Face, here: dict[str, tuple[str, ...]], models: Sequence[Trained]) -> Iterator[Line]:
    others = []
    for model in models:
        read, name = here.get(model.card.data_manifest_sha256), f"{model.card.source} ({model.folder})"
        if read is None:
            others.append(name)
        elif lacking := set(read) - face.folders:
            yield "training", f"{name}: not on this face, which is not in data/{min(lacking)}"
        else:
            yield "training", f"{name}: on this face, from {_folders(read)}"
    for name in others:
        yield "training", f"{name}: on other data than lies here now, unknown whether on this face"
    if not models:
        yield "trainings", "none: there is no model in models/ or runs/"


def _part_in(face: Face, version: Version, here: dict[str, tuple[str, ...]], root: Path) -> str:
    """What part the face had in a version."""
    tags = version.tags
    data = {part: tags.get(f"{part}.data", "") for part in PARTS if f"{part}.sha256" in tags}
    if not data:  # registered before versions had these tags
        data = {part: card.data_manifest_sha256 for part, card in package_cards(version, PARTS).items()}
    manifest = tags.get("data_manifest_sha", "unknown")
    if not here.keys() & data.values() and manifest != file_hash(root / MANIFEST):
        return f"of another manifest ({manifest[:12]}) than the present one, unknown whether of this face"
    learnt = [part for part, sha in data.items() if sha in here and face.folders >= {*here[sha]}]
    unknown = [part for part, sha in data.items() if sha not in here]
    if not face.folders:
        text = "of this data, in which the face is quarantined"
    elif face.split in _HELD_OUT:
        text = f"of this data, in which the face is {_HELD_OUT[face.split]}"
    else:
        text = f"of this data; {', '.join(learnt) or 'no part known to have'} learnt from the face"
    return f"{text}; unknown of {', '.join(unknown)}, trained on other data" if unknown else text


@dataclass(frozen=True)
class _Cards:
    """What models that are within reach were trained on and began with.

    Attributes:
        known: models within reach.
        here: see `data_identities`.
        runs: see `training_runs`.
    """

    known: Sequence[Trained]
    here: dict[str, tuple[str, ...]]
    runs: dict[str, list[str]]

    def named_by(self, version: Version) -> dict[str, Card]:
        """The cards within reach of the weights that the version's tags name, by part."""
        by_sha256 = {model.card.sha256: model.card for model in self.known}
        shas = {part: version.tags.get(f"{part}.sha256", "") for part in PARTS}
        return {part: by_sha256[sha] for part, sha in shas.items() if sha in by_sha256}

    def back(self, name: str, card: Card) -> Iterator[Line]:
        """A model, and below it those that its training began with."""
        weights = f"{card.kind}, {card.steps} steps, sha256 {card.sha256[:12]}"
        yield name, f"{weights}, by {card.source or 'unknown'}"
        yield "", f"git commit {card.git_commit or 'unknown'}"
        if card.source in self.runs:
            yield "", f"MLflow run {self.runs[card.source][0]}"
        if read := self.here.get(card.data_manifest_sha256):
            yield "", f"trained on {_folders(read)} as they lie here now"
        else:
            data = card.data_manifest_sha256[:12] or "unknown"
            yield "", f"trained on other data ({data}) than lies here now"
        for origin, model in origins(card, self.known).items():
            if isinstance(model, str):
                yield "", f"began with {origin}, sha256 {model[:12]}, not within reach"
            elif model.is_part:
                yield "", f"began with {origin}, sha256 {model.card.sha256[:12]}, by {model.card.source}"
            else:
                yield from self.back(f"  {origin}", model.card)


def _data(version: Version, storage: Place, root: Path) -> Iterator[Line]:
    manifest = version.tags.get("data_manifest_sha", "unknown")
    if manifest != file_hash(root / MANIFEST):
        yield "data", f"manifest {manifest[:12]}, not the present one; its commit's dvc.lock names it"
        return
    yield "data", f"manifest {manifest[:12]}, which lies here now: {STAGES[0].place(storage)}"
    table = STAGES[0].manifest(storage)
    for split in SPLITS:
        rows = table.rows(split)
        refused = sum(row.quarantined for row in rows)
        yield (
            "",
            f"{split}: {len(rows)} shards, {sum(row.count for row in rows)} faces, {refused} quarantined",
        )


def _source(params: Params, root: Path) -> str:
    if params.data.source == "folder":
        tests = params.data.test_folder
        held_out = f", data.test_folder {place_of(tests, root)}" if tests else ""
        return f"data.folder {place_of(params.data.folder, root)}{held_out}"
    return f"the procedural faces of run.seed {params.run.seed}"


def _folders(names: Sequence[str]) -> str:
    return ", ".join(f"data/{name}" for name in names)
