"""The packaged restorer, loaded back here and in a process that has no cfpp."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest

from cfpp.config import MlflowParams
from cfpp.models.face_detector import FaceDetector, find_detector
from cfpp.registry.package import Registered, load_package, log_package, package_code, register, requirements
from cfpp.registry.runs import Store
from cfpp.restoration.photographs import restore_photograph
from cfpp.restoration.request import MAX_PIXELS, Settings
from cfpp.restoration.restorer import PARTS, Restorer
from tests.tiny_models import SIZE, write_models

PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name="restorer")


TRAINING = {"ray", "dvc", "webdataset", "pyarrow", "lpips", "kornia", "setuptools"}
NEVER_IMPORTED = TRAINING - {"pyarrow", "setuptools"}  # these two MLflow and torch bring
DETECTING = {"facexlib", "torchvision"}


def package(root: Path, detector: Path | None = None) -> tuple[Registered, str]:
    """Tiny models, registered; and the tracking URI."""
    models = write_models(root / "models")
    store = Store.open(PARAMS, root)
    run = store.start_stage("register", store.start_parent("p", PARAMS, {}), {})
    try:
        tags = {"git_commit": "abc"}
        return register(log_package(models, PARTS, tags, detector), "restorer", tags), store.uri
    finally:
        run.end("FINISHED")


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Registered, str]]:
    """Tiny models, their registered package, and the tracking URI."""
    root = tmp_path_factory.mktemp("project")
    registered, uri = package(root)
    yield root / "models", registered, uri
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def with_detector(
    shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Registered, str]]:
    """As `packaged`, with a face detector."""
    root = tmp_path_factory.mktemp("photographs")
    found = find_detector(shared / "weights")
    assert found is not None
    registered, uri = package(root, found[1])
    yield root / "models", registered, uri
    mlflow.set_tracking_uri(None)


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photographs(shared: Path) -> np.ndarray:
    """One with two faces, and one with none: uint8 [2, 300, 420, 3]."""
    names = sorted((shared / "faces/test").glob("*"))[:2]
    people = [cv2.resize(cv2.imread(str(name))[..., ::-1], (200, 200)) for name in names]
    pictures = np.full((2, 300, 420, 3), 130, np.uint8)
    pictures[0, 40:240, 5:205], pictures[0, 80:280, 215:415] = people
    return pictures


def test_package_restores_bit_for_bit_as_the_models_do(packaged: Any, faces: np.ndarray) -> None:
    models, registered, uri = packaged
    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient(uri).set_registered_model_alias("restorer", "challenger", registered.version)
    model = load_package("models:/restorer@challenger")
    restorer = Restorer.load(models)
    np.testing.assert_array_equal(model.predict(faces), restorer.restore(faces))
    asked = model.predict(faces, params={"w": 0.5, "batch_size": 2})
    np.testing.assert_array_equal(asked, restorer.restore(faces, batch_size=2, w=0.5))
    np.testing.assert_array_equal(model.predict(faces, params={"w": 1}), restorer.trace(faces).id)
    version = mlflow.MlflowClient(uri).get_model_version("restorer", registered.version)
    assert version.tags["git_commit"] == "abc"


def test_package_says_what_it_takes_and_refuses_the_rest(packaged: Any, faces: np.ndarray) -> None:
    _, registered, uri = packaged
    mlflow.set_tracking_uri(uri)
    model = load_package(registered.uri)
    signature = model.metadata.signature
    for tensors in (signature.inputs, signature.outputs):
        [tensor] = tensors.inputs
        assert (tensor.type, tensor.shape) == (np.dtype(np.uint8), (-1, -1, -1, 3))
    assert {param.name: param.default for param in signature.params} == vars(Settings())
    ragged = np.empty(2, object)
    ragged[:] = [faces[0], faces[1, :5]]
    wrong: list[tuple[np.ndarray, dict[str, Any], str]] = [
        (faces.astype(np.float32), {}, "float32"),
        (faces[0], {}, "shape"),
        (faces[..., :2], {}, "shape"),
        (ragged, {}, "expected aligned faces"),
        (faces[:, :5], {}, "aligned faces are square"),
        (faces[:0], {}, "one picture or more"),
        (faces[:, :0, :0], {}, "one picture or more"),
        (np.zeros((MAX_PIXELS // SIZE**2 + 1, 1, 1, 3), np.uint8), {}, "send fewer"),
        (faces, {"w": 1.5}, "params.w"),
        (faces, {"w": float("nan")}, "params.w"),
        (faces, {"w": "0.5"}, "w"),
        (faces, {"batch_size": 0}, "params.batch_size"),
        (faces, {"aligned": False}, "without a face detector"),
    ]
    for pictures, params, message in wrong:
        with pytest.raises(mlflow.MlflowException, match=message) as refused:
            model.predict(pictures, params=params)
        assert refused.value.get_http_status_code() == 400


def test_photographs_come_back_with_their_faces_restored(
    with_detector: Any, shared: Path, photographs: np.ndarray
) -> None:
    models, registered, uri = with_detector
    mlflow.set_tracking_uri(uri)
    model = load_package(registered.uri)
    restorer, detector = Restorer.load(models), FaceDetector.load(shared / "weights")
    found = [restore_photograph(picture, detector, restorer, w=0.25) for picture in photographs]
    assert [len(one.boxes) for one in found] == [2, 0]
    expected = np.stack([one.picture for one in found])
    restored = model.predict(photographs, params={"aligned": False, "w": 0.25})
    np.testing.assert_array_equal(restored, expected)
    assert (restored[0] != photographs[0]).any()
    np.testing.assert_array_equal(restored[1], photographs[1])
    faces = photographs[:, :SIZE, :SIZE]
    np.testing.assert_array_equal(model.predict(faces), restorer.restore(faces))


def run_elsewhere(
    registered: Registered, uri: str, pictures: np.ndarray, params: dict[str, Any], folder: Path
) -> tuple[np.ndarray, set[str]]:
    """What the package makes of the pictures in a process without this project, and what it has imported."""
    mlflow.set_tracking_uri(
        uri
    )  # the registry's address, too, which download_artifacts takes from nowhere else
    model = mlflow.artifacts.download_artifacts(registered.uri, dst_path=str(folder / "m"))
    np.save(folder / "in.npy", pictures)
    script = f"""
        import sys
        # an editable install puts the project on the path; this process must not see it
        sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
        sys.path = [p for p in sys.path if "site-packages" in p or "python3" in p]
        try:
            import cfpp
            sys.exit(f"cfpp is still there: {{cfpp.__file__}}")
        except ImportError:
            pass
        import mlflow, numpy as np
        out = mlflow.pyfunc.load_model({model!r}).predict(np.load("in.npy"), params={params!r})
        import cfpp
        assert cfpp.__file__.startswith({model!r}), cfpp.__file__
        np.save("out.npy", out)
        print(*{{name.partition(".")[0] for name in sys.modules}})
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    (folder / "run.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=folder,
        env=environment,
        check=True,
        timeout=400,
        stdout=subprocess.PIPE,
        text=True,
    )
    return np.load(folder / "out.npy"), set(done.stdout.split())


@pytest.mark.slow
def test_package_runs_where_the_project_is_not_installed(
    packaged: Any, faces: np.ndarray, tmp_path: Path
) -> None:
    models, registered, uri = packaged
    found, imported = run_elsewhere(registered, uri, faces, {"w": 0.5}, tmp_path)
    np.testing.assert_array_equal(found, Restorer.load(models).restore(faces, w=0.5))
    assert not imported & (NEVER_IMPORTED | DETECTING)


@pytest.mark.slow
def test_package_with_detector_runs_where_the_project_is_not_installed(
    with_detector: Any, shared: Path, photographs: np.ndarray, tmp_path: Path
) -> None:
    models, registered, uri = with_detector
    found, imported = run_elsewhere(registered, uri, photographs[:1], {"aligned": False}, tmp_path)
    detector = FaceDetector.load(shared / "weights")
    expected = restore_photograph(photographs[0], detector, Restorer.load(models))
    np.testing.assert_array_equal(found[0], expected.picture)
    assert imported >= DETECTING
    assert not imported & NEVER_IMPORTED


def test_package_takes_along_what_it_needs_and_no_more() -> None:
    plain, photographs = package_code(detector=False), package_code(detector=True)
    assert {
        "cfpp",
        "cfpp.restoration.restorer",
        "cfpp.restoration.request",
        "cfpp.models.codeformer.quantizer",
    } <= plain.own
    assert photographs.own - plain.own >= {"cfpp.restoration.photographs", "cfpp.models.face_detector"}
    for code in (plain, photographs):
        assert not any(
            name.startswith(("cfpp.training.", "cfpp.registry", "cfpp.objectives", "cfpp.evaluation"))
            for name in code.own
        )
        pins = dict(line.split("==") for line in requirements(code))
        assert {"mlflow", "torch", "numpy", "opencv-python", "safetensors", "pillow"} <= set(pins)
        assert not TRAINING & set(pins)
        assert ("facexlib" in pins) == (code is photographs)
        assert all("+" not in version for version in pins.values())
