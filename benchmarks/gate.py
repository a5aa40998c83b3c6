"""How often the gate is wrong, measured on real scores of which the truth is then known.

python -m benchmarks.gate [SCORES [CHALLENGER]] [--people N] [--draws 1000]

SCORES is reports/promotion/scores.csv, of the last promotion, unless named; or two reports/per_image.csv of
the evaluation, of which I_out is taken. The rules are those of params.yaml. Test sets are drawn from the
people: where neither version is truly better, and where the challenger is better by every rule's effect.
"""

import argparse
from pathlib import Path

import pandas as pd

from cfpp.config import load_params
from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.gate import CHALLENGER, CHAMPION, check_metrics, judge
from cfpp.evaluation.gate_simulation import simulate
from cfpp.evaluation.gate_table import markdown


def read_scores(champion: Path, challenger: Path | None) -> pd.DataFrame:
    """Scores of both kinds, of one file or of two of the evaluation."""
    first = pd.read_csv(champion)
    if challenger is None:
        return first
    pair = [frame[frame["kind"] == "out"] for frame in (first, pd.read_csv(challenger))]
    return pd.concat([pair[0].assign(kind=CHAMPION), pair[1].assign(kind=CHALLENGER)], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("scores", nargs="?", type=Path, default=Path("reports/promotion/scores.csv"))
    parser.add_argument("challenger", nargs="?", type=Path)
    parser.add_argument("--people", type=int, help="in a test set; as many as there are, unless given")
    parser.add_argument("--draws", type=int, default=1000, help="test sets")
    options = parser.parse_args()
    try:
        params = load_params()
        check_metrics(params.promote)
        scores = read_scores(options.scores, options.challenger)
    except (MendableError, OSError) as error:
        raise SystemExit(f"gate: {error}") from error
    section = params.promote
    bootstrap = Bootstrap(params.evaluate.bootstrap, section.confidence, params.run.seed)
    judged = judge(scores, section, bootstrap, against_champion=True, latency=0.0, reasons={})
    print(markdown(judged))
    if judged.needed is None:
        raise SystemExit("gate: a rule cannot be judged, see above")
    people = options.people or judged.people
    print(f"people: {judged.people} here, {judged.needed} needed for 80 % at the effects of all rules")
    for number in dict.fromkeys((people, judged.needed)):
        found = simulate(scores, section.rules, bootstrap, number, options.draws)
        print(
            f"{number} people, {found.draws} draws: promoted without a true difference "
            f"{100 * found.without:.1f} %, with the effect {100 * found.with_effect:.1f} %"
        )


if __name__ == "__main__":
    main()
