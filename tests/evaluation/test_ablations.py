"""The table of ablations against plain numpy."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cfpp.evaluation.ablations import FULL, Ablation, AblationError, Outcome, markdown, read_rows, tabulate
from cfpp.evaluation.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(400, 0.95, 0)
PEOPLE = ["a", "a", "b", "c", "d", "e"]
METHOD = Ablation(FULL, "the full method")
NO_TAM = Ablation("no-tam", "no TAM", {"train_tgrn.texture_attention": False})
NO_INTEGRATION = Ablation("no-integration", "no integration", {"train_dam.integration_steps": 0})


def measured(seed: int, psnr: float = 0.0, texture: float = 0.0) -> pd.DataFrame:
    """Rows as the evaluation writes them; keys look like numbers, and I_out has these means added."""
    rng = np.random.default_rng([seed, 7])
    frames = []
    for kind in ("gp", "warp", "out"):
        n = len(PEOPLE)
        frame = pd.DataFrame({"key": [f"00{i}" for i in range(n)], "variant": 0, "person": PEOPLE})
        frame["kind"] = kind
        frame["psnr"] = rng.normal(25 + psnr * (kind == "out"), 1, n)
        frame["texture"] = rng.normal(1 + texture * (kind == "out"), 0.2, n)
        if kind != "out":
            frame["landmark_id"] = rng.uniform(1, 2, n)
        if kind == "warp":
            frame["folded"] = rng.uniform(0, 1, n)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def out(rows: pd.DataFrame, metric: str, kind: str = "out") -> np.ndarray:
    return rows.query(f"kind == '{kind}'").sort_values("key")[metric].to_numpy()


def test_differences_are_those_of_the_same_faces_averaged_over_seeds() -> None:
    full = {seed: measured(seed) for seed in (0, 1, 2)}
    other = {seed: measured(seed + 10, psnr=-3, texture=0.4).sample(frac=1, random_state=0) for seed in full}
    table = tabulate([Outcome(METHOD, full), Outcome(NO_TAM, other)], BOOTSTRAP)
    entry = table["no-tam"]
    by_seed = [np.mean(out(other[s], "psnr") - out(full[s], "psnr")) for s in full]
    psnr = entry["differences"]["psnr"]
    assert psnr["by_seed"] == pytest.approx(by_seed, rel=1e-5)
    assert psnr["mean"] == pytest.approx(np.mean(by_seed), rel=1e-5)
    assert psnr["spread"] == pytest.approx(np.std(by_seed, ddof=1), rel=1e-5)
    assert (psnr["n"], psnr["people"], psnr["agree"], psnr["verdict"]) == (6, 5, True, "worse")
    assert psnr["low"] <= psnr["mean"] <= psnr["high"] < 0
    from_1 = [
        np.mean(np.abs(out(other[s], "texture") - 1) - np.abs(out(full[s], "texture") - 1)) for s in full
    ]
    assert entry["differences"]["texture_from_1"]["mean"] == pytest.approx(np.mean(from_1), rel=1e-5)
    assert entry["means"]["psnr"]["mean"] == pytest.approx(
        np.mean([out(rows, "psnr") for rows in other.values()]), rel=1e-5
    )
    assert table[FULL]["differences"] == {}


def test_the_interval_is_that_of_people_drawn_with_all_their_faces() -> None:
    full, other = measured(0), measured(5, psnr=-0.5)
    found = tabulate([Outcome(METHOD, {0: full}), Outcome(NO_TAM, {0: other})], BOOTSTRAP)
    estimate = found["no-tam"]["differences"]["psnr"]
    change = out(other, "psnr") - out(full, "psnr")
    groups = [change[[p == person for p in PEOPLE]] for person in sorted(set(PEOPLE))]
    rng = np.random.default_rng(1)
    means = [np.concatenate([groups[i] for i in rng.integers(0, 5, 5)]).mean() for _ in range(4000)]
    width = np.quantile(means, 0.975) - np.quantile(means, 0.025)
    assert estimate["high"] - estimate["low"] == pytest.approx(width, rel=0.15)
    assert estimate["spread"] is estimate["agree"] is None


def test_seeds_that_contradict_each_other_decide_nothing() -> None:
    full = {seed: measured(seed) for seed in (0, 1, 2)}
    other = {
        seed: rows.assign(psnr=rows["psnr"] + change)
        for (seed, rows), change in zip(full.items(), (2.0, -0.4, 0.2), strict=True)
    }
    outcomes = [Outcome(METHOD, full), Outcome(NO_TAM, other)]
    psnr = tabulate(outcomes, BOOTSTRAP)["no-tam"]["differences"]["psnr"]
    assert psnr["low"] > 0  # of people; of trainings it knows nothing
    assert (psnr["agree"], psnr["verdict"]) == (False, "undecided")
    assert "One seed does not tell" not in markdown(tabulate(outcomes, BOOTSTRAP))
    single = [Outcome(METHOD, {0: full[0]}), Outcome(NO_TAM, {0: other[0]})]
    assert "One seed does not tell" in markdown(tabulate(single, BOOTSTRAP))


def test_a_metric_that_a_seed_lacks_is_left_out() -> None:
    full = {seed: measured(seed).assign(lpips=0.2) for seed in (0, 1)}
    other = {0: full[0], 1: full[1].drop(columns="lpips")}
    for first, second in ((full, other), (other, full)):
        table = tabulate([Outcome(METHOD, first), Outcome(NO_TAM, second)], BOOTSTRAP)
        assert "lpips" not in table["no-tam"]["differences"]
        assert table["no-tam"]["differences"]["psnr"]["n"] == 6
        assert ("lpips" in table[FULL]["means"]) == (first is full)
        assert table[FULL]["alignment"]["n"] == 12


def test_seeds_made_from_something_else_are_refused_by_name() -> None:
    rows = {seed: measured(seed) for seed in (0, 1, 2)}
    same = {"models/prior": "p", "TGRN's identity loss": "ArcFace"}
    full = Outcome(METHOD, rows, made_from={0: same, 1: same, 2: {"models/prior": "q"}})
    made_from = {0: {"models/prior": "p"}, 1: {**same, "TGRN's identity loss": "probe"}, 2: same}
    table = tabulate([full, Outcome(NO_TAM, rows, made_from=made_from)], BOOTSTRAP)
    assert (table[FULL]["seeds"], table["no-tam"]["seeds"]) == ([0, 1], [0])
    text = "where the full method of the first seed has"
    assert table[FULL]["failed"]["2"].startswith(f"models/prior: q, {text} p; bring the project up to date")
    assert table["no-tam"]["failed"]["1"].startswith(f"TGRN's identity loss: probe, {text} ArcFace")
    assert table["no-tam"]["failed"]["2"].startswith(f"models/prior: q, {text} p")


def test_the_dam_is_shown_where_it_is_the_full_methods_or_its_own() -> None:
    rows = {seed: measured(seed) for seed in (0, 1)}
    table = tabulate([Outcome(a, rows) for a in (METHOD, NO_TAM, NO_INTEGRATION)], BOOTSTRAP)
    both = pd.concat(rows.values())
    reduction = 1 - out(both, "landmark_id", "warp").mean() / out(both, "landmark_id", "gp").mean()
    for name in (FULL, "no-integration"):
        assert table[name]["alignment"]["mean"] == pytest.approx(reduction, rel=1e-5)
        assert table[name]["folded"]["mean"] == pytest.approx(out(both, "folded", "warp").mean(), rel=1e-5)
    assert table["no-tam"]["alignment"] is table["no-tam"]["folded"] is None
    assert table["no-integration"]["differences"]["psnr"]["verdict"] == "undecided"  # the same pictures


def test_other_faces_are_refused_by_name() -> None:
    full = measured(0)
    fewer = full[full["key"] != "003"]
    twice = pd.concat([full, full])
    table = tabulate([Outcome(METHOD, {0: full, 1: full}), Outcome(NO_TAM, {0: fewer, 1: twice})], BOOTSTRAP)
    entry = table["no-tam"]
    assert (entry["seeds"], entry["means"], entry["differences"]) == ([], {}, {})
    assert entry["failed"]["0"].startswith("1 faces were measured in one experiment only, first 003")
    assert entry["failed"]["1"].startswith("6 faces were measured twice, first 000")


def test_what_failed_or_lacks_its_match_is_named_and_the_others_stand() -> None:
    full = Outcome(METHOD, {0: measured(0)}, {1: "no disk"})
    other = Outcome(NO_TAM, {0: measured(2), 1: measured(3)})
    void = Outcome(NO_INTEGRATION, void="nothing to run")
    table = tabulate([full, other, void], BOOTSTRAP)
    assert table["no-tam"]["seeds"] == [0]
    assert table["no-tam"]["failed"] == {"1": "the full method has no result to compare with"}
    text = markdown(table)
    assert "- the full method, seed 1: FAILED, no disk" in text
    assert "- no integration: nothing to run" in text
    line = next(line for line in text.splitlines() if line.startswith("| no TAM | 0 |"))
    assert f"{table['no-tam']['differences']['psnr']['mean']:+.2f}" in line


def test_a_table_without_results_says_why() -> None:
    text = markdown(tabulate([Outcome(METHOD, failed={0: "no faces"})], BOOTSTRAP))
    assert "FAILED, no faces" in text


def test_the_full_method_comes_first() -> None:
    with pytest.raises(AblationError, match="no-tam"):
        tabulate([Outcome(NO_TAM)], BOOTSTRAP)


def test_keys_stay_text(tmp_path: Path) -> None:
    rows = measured(0)
    rows.loc[rows["key"] == "000", ["key", "person"]] = ["NA", "7"]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    read = read_rows(tmp_path / "rows.csv")
    assert sorted(set(read["key"])) == ["001", "002", "003", "004", "005", "NA"]
    assert "7" in set(read["person"])
    assert read["landmark_id"].isna().sum() == 6
    (tmp_path / "other.csv").write_text("key,kind\na,out\n")
    for name, fault in (("none.csv", "no table"), ("other.csv", "lacks the column variant")):
        with pytest.raises(AblationError, match=fault):
            read_rows(tmp_path / name)
