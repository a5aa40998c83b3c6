"""The identity loss sees what the metric sees, and lets gradients through to the picture."""

from pathlib import Path

import numpy as np
import pytest

from cfpp.config import ParamsError
from cfpp.data.folder import list_faces, load_face
from cfpp.data.pictures import to_tensor
from cfpp.evaluation.identity import OnnxIdentity
from cfpp.models.external import ExternalFileError
from cfpp.objectives.face_embedding import face_embedding_name, find_face_embedding, of_onnx
from tests.evaluation.tiny_onnx import mean_colour


@pytest.mark.parametrize("size", [128, 512])
def test_it_embeds_as_the_metric_does(shared: Path, size: int) -> None:
    folder = shared / "faces/test"
    listed = list_faces(folder).faces[:6]
    faces = np.stack(
        [load_face(folder, face.source, size=size, min_side=64, max_pixels=10**8) for face in listed]
    )
    network = find_face_embedding(str(shared / "weights"), "")
    assert network.name == face_embedding_name(str(shared / "weights"), "")
    ours = network(to_tensor(faces)).numpy()
    path = shared / "weights/mobilefacenet_112x96.onnx"
    theirs = OnnxIdentity(path, "metric").embed(faces)
    # The crops differ by their interpolation alone; two people are 0.04 alike.
    assert (ours * theirs).sum(1).min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_gradients_reach_the_face_and_make_it_more_alike(shared: Path) -> None:
    network = of_onnx(shared / "weights/mobilefacenet_112x96.onnx", "net").train()
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    one, other = list_faces(shared / "faces/test").faces[:2]
    faces = [
        to_tensor(load_face(shared / "faces/test", f.source, size=128, min_side=64, max_pixels=10**8)[None])
        for f in (one, other)
    ]
    wanted, face = network(faces[0]), faces[1].requires_grad_()
    before = (network(face) * wanted).sum()
    before.backward()
    assert face.grad is not None
    after = (network(face.detach() + 0.01 * face.grad.sign()) * wanted).sum()
    assert after > before + 0.1


def test_what_is_no_face_embedder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"train_tgrn\.identity_weight: above 0, but the loss needs"):
        find_face_embedding("", "")
    with pytest.raises(ParamsError, match=r"train_tgrn\.identity_network names an \.onnx file"):
        find_face_embedding("", str(tmp_path / "gone.onnx"))
    (tmp_path / "text.onnx").write_text("no network at all")
    with pytest.raises(ExternalFileError, match=r"text\.onnx: cannot be made a torch module"):
        of_onnx(tmp_path / "text.onnx", "text")
    other_side = tmp_path / "other.onnx"
    other_side.write_bytes(mean_colour(["n", 3, 96, 96]))
    with pytest.raises(ExternalFileError, match="a face embedder takes"):
        of_onnx(other_side, "other")
