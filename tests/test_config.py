import copy
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cfpp.config import ParamsError, load_params, parse_params, to_dict
from cfpp.profiles import apply_profile

REPOSITORY = Path(__file__).resolve().parents[1]
PARAMS = REPOSITORY / "params.yaml"
PROFILES = sorted((REPOSITORY / "profiles").glob("*.yaml"))


@pytest.fixture
def tree() -> dict:
    return plain(PARAMS)


def plain(path: Path) -> dict:
    tree = YAML(typ="safe").load(path.read_text())
    return copy.deepcopy({key: value for key, value in tree.items() if not key.startswith("x-")})


def leaves(tree: dict, where: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        dotted = f"{where}.{key}" if where else key
        found += leaves(value, dotted) if isinstance(value, dict) else [dotted]
    return found


def at(tree: dict, dotted: str) -> object:
    value: object = tree
    for key in dotted.split("."):
        assert isinstance(value, dict)
        value = value[key]
    return value


def change(tree: dict, dotted: str, value: object) -> dict:
    *path, last = dotted.split(".")
    section = tree
    for key in path:
        section[key] = dict(section[key])
        section = section[key]
    section[last] = value
    return tree


def test_params_yaml_round_trips_through_the_typed_sections(tree: dict) -> None:
    assert to_dict(parse_params(tree)) == tree


def test_sections_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load_params(PARAMS).run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("where", ["", "run.", "train_tgrn.", "prior.fusion.train.", "degradation.large."])
def test_unknown_key_is_named(tree: dict, where: str) -> None:
    with pytest.raises(ParamsError, match=f"unknown key {where}lerning_rate"):
        parse_params(change(tree, f"{where}lerning_rate", 1))


def test_every_missing_or_ill_typed_key_is_named(tree: dict) -> None:
    for dotted in leaves(tree):
        with pytest.raises(ParamsError, match=dotted.replace(".", r"\.")):
            parse_params(change(copy.deepcopy(tree), dotted, {"not": "a value"}))
        broken = change(copy.deepcopy(tree), dotted, None)
        *path, last = dotted.split(".")
        section = broken
        for key in path:
            section = section[key]
        del section[last]
        with pytest.raises(ParamsError, match=f"missing key {dotted}"):
            parse_params(broken)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.size", 100),
        ("run.seed", True),
        ("data.test_fraction", 1.5),
        ("data.source", "s3"),
        ("prior.network.width", 48),
        ("train_tgrn.negatives", ["hq"]),
        ("train_dam.train.batch_size", 0),
        ("degradation.large.sigma", [3.0, 1.0]),
        ("degradation.large.sigma", [1.0, 2.0, 3.0]),
        ("degradation.small.jpeg", [0, 50]),
        ("degradation.kernel_size", -41),
        ("data.identity_pattern", "(unclosed"),
        ("data.identity_pattern", "no group"),
        ("prior.network.fuse", [48]),
        ("prior.network.transformer_dim", 130),
        ("prior.fusion.small_every", 0),
        ("prior.fusion.curriculum", [1200, 400, 10]),
        ("prior.codebook.train.learning_rate", float("inf")),
        ("prior.code_prediction.train.betas", [0.9, 1.0]),
        ("train_dam.lncc_window", -9),
        ("train_dam.widths", [16]),
        ("train_dam.train.loader_workers", -1),
        ("train_tgrn.widths", []),
        ("train_tgrn.negatives", []),
        ("train_tgrn.l1_weight", float("nan")),
        ("evaluate.confidence", 1.0),
        ("evaluate.pictures", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_whole_key(tree: dict, key: str, value: object) -> None:
    with pytest.raises(ParamsError, match=rf"^{re.escape(key)}(\[|:)"):
        parse_params(change(tree, key, value))


def test_a_network_that_does_not_fit_the_size_is_refused_before_anything_runs(tree: dict) -> None:
    change(tree, "run.size", 256)
    parse_params(tree)  # the embedded prior's own geometry is on its card
    with pytest.raises(ParamsError, match=r"^prior\.network\.multipliers: .*run\.size 256"):
        parse_params(change(tree, "prior.source", "train"))


def test_what_trainings_share_reaches_each_that_does_not_say_otherwise(tmp_path: Path) -> None:
    path, profile = tmp_path / "params.yaml", tmp_path / "mine.yaml"
    path.write_text(PARAMS.read_text())
    # the shared value becomes 4, and the one that names today's shared value keeps it
    profile.write_text("x-train: {threads: 4}\ntrain_dam: {train: {threads: 2}}")
    changed = apply_profile(profile, path)
    sections = ["prior.codebook", "prior.code_prediction", "prior.fusion", "train_tgrn"]
    assert sorted(changed) == sorted(f"{section}.train.threads" for section in sections)
    assert load_params(path).train_dam.train.threads == 2


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 3e-3"))
    assert load_params(path).train_dam.train.learning_rate == 3e-3


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the project folder"):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for content in (PARAMS.read_text().encode("utf-16"), "# Größe\n".encode("latin-1")):
        path.write_bytes(content)
        with pytest.raises(ParamsError, match=r"params\.yaml: not UTF-8: .* at byte \d"):
            load_params(path)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_applies_and_keeps_the_comments(profile: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text())
    changed = apply_profile(profile, path)
    overrides = plain(profile)
    result = to_dict(load_params(path))
    before = plain(PARAMS)
    for dotted in leaves(overrides):
        assert at(result, dotted) == at(overrides, dotted), dotted
    assert changed
    assert set(changed) == {key for key in leaves(result) if at(result, key) != at(before, key)}
    if "x-train" not in profile.read_text():
        assert set(changed) <= set(leaves(overrides))
    assert path.read_text().count("#") == PARAMS.read_text().count("#")
    assert apply_profile(profile, path) == []


def test_a_profile_with_an_unknown_key_changes_nothing(tmp_path: Path) -> None:
    path, profile = tmp_path / "params.yaml", tmp_path / "mine.yaml"
    path.write_text(PARAMS.read_text())
    profile.write_text("run: {seed: 7, sied: 3}")
    with pytest.raises(ParamsError, match=r"run\.sied"):
        apply_profile(profile, path)
    assert path.read_text() == PARAMS.read_text()


def test_a_profile_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="faces128, ffhq512"):
        apply_profile(REPOSITORY / "profiles" / "nothing.yaml", PARAMS)
