"""The gate: makes the challenger champion if it is measurably better on the frozen test set.

python -m pipelines.promote [--challenger VERSION] [--dry-run] [--force --reason TEXT]

Champion and challenger restore the test split, as the storage holds it, in this process; the rules are
those of section promote of params.yaml (docs/registry.md). Exit code: 0, promoted, or the challenger is the
champion already; 3, refused by the gate, and the table says by what; 2, wrong options; 1, something else is
wrong, and the last line says what. The champion changes with 0 only. Writes reports/promotion.md,
promotion.json and promotion/scores.csv.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cfpp.config import Params, load_params
from cfpp.data.samples import SampleStore
from cfpp.errors import MendableError
from cfpp.evaluation.bootstrap import Bootstrap
from cfpp.evaluation.contenders import Scores, columns_for, score
from cfpp.evaluation.gate import CHALLENGER, CHAMPION, Judgement, check_metrics, judge
from cfpp.evaluation.gate_table import markdown
from cfpp.evaluation.identity import Domain
from cfpp.evaluation.measure import build_instruments
from cfpp.files import replacing
from cfpp.lineage import MANIFEST, file_hash
from cfpp.registry.acts import now
from cfpp.registry.champions import Champions
from cfpp.registry.provenance import RegistryError, Version, find_version
from cfpp.registry.restorers import Opened, open_restorer
from cfpp.storage import place_of

log = logging.getLogger("pipelines.promote")

REFUSED_CODE = 3
LEAST_RESAMPLES = 1000  # with few, the end of an interval is a matter of luck
RECORD = Path("reports/promotion.json")
TABLE = Path("reports/promotion.md")
SCORES = Path("reports/promotion/scores.csv")

Decision = Literal["promoted", "refused", "already champion", "would promote"]


@dataclass(frozen=True)
class Outcome:
    """What came of a promotion.

    Attributes:
        decision: what was done; "would promote" after a dry run only.
        table: markdown, for people; "" where nothing was measured.
        record: what reports/promotion.json holds.
    """

    decision: Decision
    table: str
    record: dict[str, Any]


def promote(
    params: Params,
    root: Path,
    *,
    reference: str = CHALLENGER,
    force_reason: str = "",
    dry_run: bool = False,
) -> Outcome:
    """Measure a challenger against the champion and, if the gate lets it pass, make it champion.

    Args:
        root: of the project.
        reference: the challenger, as `find_version` takes it.
        force_reason: promotes even where the gate refuses, or where the champion cannot be opened; recorded.
        dry_run: changes nothing, neither registry nor reports.

    Raises:
        RegistryError: no challenger, a version whose files are gone or damaged, another champion meanwhile,
            or the registry does not answer.
        ParamsError: a rule names a metric that the gate does not know.
        MendableError: the test split is missing or damaged.
    """
    check_metrics(params.promote)
    champions = Champions.open(params.mlflow, root)
    challenger, champion = _contenders(champions, params, reference, forced=bool(force_reason))
    if champion is not None and challenger.number == champion.number:
        log.info("%s is the champion already", challenger.title)
        if not dry_run:
            champions.settle()  # it may be so by a promotion that was killed right after it
        same = {"decision": "already champion", "challenger": challenger.number}
        return Outcome("already champion", "", same)
    opened = {CHALLENGER: _open(challenger, params, root)}
    if champion is not None:
        try:
            opened[CHAMPION] = _open(champion, params, root)
        except RegistryError as error:
            if not force_reason:
                raise RegistryError(
                    f"{error}; nothing can be measured against it: run python -m pipelines.rollback, or "
                    "promote with --force --reason"
                ) from error
            log.warning("%s", error)
    scores, reasons = _score(params, root, opened)
    judgement = judge(
        scores.rows,
        params.promote,
        Bootstrap(
            max(LEAST_RESAMPLES, params.evaluate.bootstrap), params.promote.confidence, params.run.seed
        ),
        against_champion=champion is not None,
        latency=scores.latency[CHALLENGER],
        reasons=reasons,
    )
    passed = judgement.passed or bool(force_reason)
    decision: Decision = "refused" if not passed else "would promote" if dry_run else "promoted"
    notes = _notes(opened, scores)
    record = {
        "decision": decision,
        "when": now(),
        "name": champions.name,
        "challenger": challenger.number,
        "champion": champion.number if champion else None,
        "weights": {kind: found.weights for kind, found in opened.items()},
        "test_set": {
            "sha256": scores.sha256,
            "data_manifest_sha": file_hash(root / MANIFEST),
            "faces": len(scores.rows) // len(opened),
            "people": judgement.people,
            "size": scores.size,
        },
        "passed": judgement.passed,
        "failed": judgement.failed,
        "people_needed": judgement.needed,
        "rules": [verdict.record() for verdict in judgement.rules],
        "limits": [verdict.record() for verdict in judgement.limits],
        "latency": {kind: float(f"{seconds:.4g}") for kind, seconds in scores.latency.items()},
        "forced": force_reason if force_reason and not judgement.passed else None,
        "notes": notes,
    }
    table = _page(record, judgement, challenger, champion)
    if not dry_run:
        _write_scores(root, scores)  # the bulk comes first: a full disk is noticed before the champion moves
        if passed:
            champions.promote(
                challenger.number,
                instead_of=champion.number if champion else "",
                why=force_reason or _why(judgement),
                figures=_figures(record),
                forced=not judgement.passed,
            )
        else:
            champions.note_refusal(challenger.number, f"{now()}: {', '.join(judgement.failed)}")
        try:
            _write(root, record, table)
        except OSError as error:  # the registry has it already
            log.error("%s, but its report cannot be written: %s", decision, error)
    return Outcome(decision, table, record)


def _contenders(
    champions: Champions, params: Params, reference: str, *, forced: bool
) -> tuple[Version, Version | None]:
    """The challenger and the champion."""
    store, name = champions.store, params.mlflow.model_name
    try:
        challenger = find_version(store, name, reference)
    except RegistryError as error:
        hint = "; dvc repro -f -s register makes one" if reference == CHALLENGER else ""
        raise RegistryError(f"{error}{hint}") from error
    if challenger.name != name:
        raise RegistryError(f"{reference}: is a version of {challenger.name}; the champion is one of {name}")
    reign = champions.reign()
    if reign.champion:
        return challenger, find_version(store, name, reign.champion)
    if any(act.state == "done" for act in reign.settled.acts) and not forced:
        raise RegistryError(
            f"{name}: had a champion, and now has none to measure against, since its alias was removed: run "
            "python -m pipelines.rollback, or promote with --force --reason"
        )
    return challenger, None


def _open(version: Version, params: Params, root: Path) -> Opened:
    return open_restorer(f"models:/{version.name}/{version.number}", params.mlflow, root)


def _score(params: Params, root: Path, opened: dict[str, Opened]) -> tuple[Scores, dict[str, str]]:
    """Scores, and why which metric has none."""
    restorers = {kind: found.restorer for kind, found in opened.items()}
    store = SampleStore(place_of(params.storage.root, root), "test", columns_for(restorers.values()))
    domain: Domain = "procedural" if "landmarks68" in store[0].meta else "folder"
    instruments = build_instruments(domain, params.weights)
    return score(store, restorers, instruments, params.evaluate.batch_size), instruments.unavailable()


def _notes(opened: dict[str, Opened], scores: Scores) -> list[str]:
    return [
        f"the {kind} restores at {found.restorer.size} pixels; its pictures were brought to {scores.size}"
        for kind, found in opened.items()
        if found.restorer.size != scores.size
    ]


def _page(record: dict[str, Any], judgement: Judgement, challenger: Version, champion: Version | None) -> str:
    """The whole of promotion.md."""
    against = champion.title if champion else "no champion yet: limits alone decide"
    test, failed = record["test_set"], ", ".join(judgement.failed)
    end = {"refused": f"**Refused** by {failed}.", "promoted": "**Promoted.**"}
    said = end.get(record["decision"], "Would be **promoted** (dry run: nothing was changed).")
    if record["forced"]:
        said += f" Forced, though the gate fails by {failed}: {record['forced']}"
    latency = ", ".join(f"{kind} {1000 * seconds:.0f} ms" for kind, seconds in record["latency"].items())
    lines = [
        "# Promotion",
        "",
        f"{challenger.title} against {against}, on {test['faces']} faces of {test['people']} people, "
        f"{test['size']} x {test['size']} pixels (test set {test['sha256'][:12]}), {record['when']}.",
        "",
        markdown(judgement),
        f"One face at batch 1 takes: {latency}.",
        *(f"Note: {note}." for note in record["notes"]),
        "",
        said,
        "",
    ]
    return "\n".join(lines)


def _why(judgement: Judgement) -> str:
    found = [
        f"{verdict.label} improves by {verdict.improvement.mean:+.4g} "
        f"({verdict.improvement.low:+.4g} to {verdict.improvement.high:+.4g})"
        for verdict in judgement.rules
        if verdict.improvement is not None
    ]
    return "passed the gate: " + "; ".join(found or ["no champion yet, every limit is held"])


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """What the act keeps of the record."""
    rules = {item["metric"]: item["improvement"] for item in record["rules"]}
    means = {item["metric"]: item["challenger"] for item in record["limits"] + record["rules"]}
    return {
        "improvement": rules,
        "mean": means,
        "people": record["test_set"]["people"],
        "test_set": record["test_set"]["sha256"],
        "failed": record["failed"],
    }


def _write_scores(root: Path, scores: Scores) -> None:
    with replacing(root / SCORES) as path:
        scores.rows.to_csv(path, index=False, float_format="%.6g")


def _write(root: Path, record: dict[str, Any], table: str) -> None:
    with replacing(root / TABLE) as path:
        path.write_text(table, encoding="utf-8")
    with replacing(root / RECORD) as path:
        path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.promote", description=__doc__)
    parser.add_argument("--challenger", default=CHALLENGER, metavar="VERSION", help="number or alias")
    parser.add_argument("--dry-run", action="store_true", help="measure and say; change nothing")
    parser.add_argument("--force", action="store_true", help="promote whatever the gate says; needs --reason")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why it is forced; recorded")
    options = parser.parse_args(arguments)
    reason = options.reason.strip()
    if options.force != bool(reason):
        parser.error("--force and --reason TEXT go together")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        outcome = promote(
            load_params(),
            Path.cwd(),
            reference=options.challenger,
            force_reason=reason,
            dry_run=options.dry_run,
        )
    except (MendableError, OSError) as error:  # what is wrong with a disk can be mended, too
        raise SystemExit(f"promote: {error}") from error
    if outcome.table:
        log.info("\n%s", outcome.table)
    return REFUSED_CODE if outcome.decision == "refused" else 0


if __name__ == "__main__":
    sys.exit(main())
