"""Files from elsewhere: found by name and sha256, and never taken for another."""

import hashlib
import pickle
import re
from pathlib import Path

import facexlib
import pytest
import torch

from cfpp.config import ParamsError
from cfpp.models.catalogue import CATALOGUE, RETINAFACE_MOBILE
from cfpp.models.external import (
    ExternalFile,
    ExternalFileError,
    find_external,
    identify,
    load_state,
    why_missing,
)
from cfpp.models.fetch import address


def known(content: bytes, name: str = "net.pth", url: str = "https://example.org/net.pth") -> ExternalFile:
    return ExternalFile(name, hashlib.sha256(content).hexdigest(), f"of {content!r}", url=url)


def test_the_first_of_the_known_files_is_found(tmp_path: Path) -> None:
    first, second = known(b"1", "a.pth"), known(b"2", "b.pth")
    assert find_external("", (first, second)) is None
    assert find_external(tmp_path, (first, second)) is None
    (tmp_path / "b.pth").write_bytes(b"2")
    assert find_external(tmp_path, (first, second)) == (tmp_path / "b.pth", second)
    (tmp_path / "a.pth").write_bytes(b"1")
    assert find_external(str(tmp_path), (first, second)) == (tmp_path / "a.pth", first)


def test_namesakes_are_told_apart_by_their_sha256(tmp_path: Path) -> None:
    first, second = known(b"1"), known(b"2")
    (tmp_path / "net.pth").write_bytes(b"2")
    assert find_external(tmp_path, (first, second)) == (tmp_path / "net.pth", second)


def test_another_file_under_a_known_name_is_an_error_with_both_digests(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"cut sh")
    digests = [hashlib.sha256(content).hexdigest() for content in (b"cut sh", b"whole")]
    with pytest.raises(ExternalFileError, match=rf"net\.pth: sha256 is {digests[0]}, expected {digests[1]}"):
        find_external(tmp_path, (known(b"whole"),))
    with pytest.raises(ExternalFileError, match="sha256"):
        identify(tmp_path / "net.pth", CATALOGUE)


def test_a_root_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"weights\.root: .*absent is not a folder"):
        find_external(tmp_path / "absent", (known(b"1"),))


def test_the_reason_names_the_files_the_place_and_the_command() -> None:
    published, copy = known(b"1"), known(b"2", "copy.pth", url="")
    assert why_missing("", (published, copy)) == (
        'needs net.pth or copy.pth (weights.root is ""); '
        "set weights.root, then run `cfpp weights fetch net.pth`"
    )
    assert why_missing("some/w", (copy, published)).endswith("(not in w); run `cfpp weights fetch net.pth`")
    assert "by hand" in why_missing("w", (copy,))


def test_a_state_dict_is_read_bare_or_among_other_things_and_nothing_is_executed(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(3.0)}
    for content in (state, {"state_dict": state, "epoch": 3}):
        torch.save(content, tmp_path / "net.pth")
        assert torch.equal(load_state(tmp_path / "net.pth")["a.weight"], state["a.weight"])
    for content in ({"state_dict": {"a": 1}}, [1, 2]):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(ExternalFileError, match=r"net\.pth: not a state dict"):
            load_state(tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes(pickle.dumps(Path))
    with pytest.raises(ExternalFileError, match=r"net\.pth: not a state dict"):
        load_state(tmp_path / "net.pth")


def test_the_catalogue_is_sound() -> None:
    assert len({(file.name, file.sha256) for file in CATALOGUE}) == len(CATALOGUE)
    published = [file for file in CATALOGUE if file.url]
    assert len({file.name for file in published}) == len(published)
    for file in CATALOGUE:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file.name
        assert file.size > 0
        assert file.label
        assert file.serves
        url = address(file)  # torchvision's as torchvision itself has it
        assert not url or url.startswith("https://")
        assert not url or (url.endswith(f"/{file.name}") and file.licence)
        if prefix := re.search(r"-([0-9a-f]{8})\.pth$", file.name):  # the digits that torch.hub checks
            assert file.sha256.startswith(prefix[1])


def test_facexlibs_files_are_those_that_it_loads_itself() -> None:
    source = "".join(path.read_text() for path in Path(facexlib.__file__).parent.rglob("__init__.py"))
    urls = {file.url for file in CATALOGUE if "facexlib/releases" in file.url}
    assert len(urls) == 5
    assert urls <= set(re.findall(r"https://\S+\.pth", source))


def test_the_files_at_hand_are_those_of_the_catalogue(shared: Path) -> None:
    at_hand = [path for path in (shared / "weights").iterdir() if path.suffix in {".pth", ".onnx"}]
    for path in at_hand:
        assert identify(path, CATALOGUE).size == path.stat().st_size
    found = find_external(shared / "weights", RETINAFACE_MOBILE)
    assert found is not None
    assert found[1] is RETINAFACE_MOBILE[1]
