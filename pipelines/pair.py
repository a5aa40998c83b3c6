"""Warp I_G onto I_F with the DAM, and make the anchor-positives: data/pairs.

python -m pipelines.pair
"""

from pathlib import Path

from cfpp.synthesis.pairs import MASK_KIND, pair_config_hash, pair_spec
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import plan_from
from pipelines.session import Session, run_stage

RESTORED = Path("data/restored")
PAIRS = Path("data/pairs")
DAM = Path("models/dam")
REPORT = Path("reports/pair.json")


def main() -> None:
    run_stage("pair", work)


def work(session: Session) -> None:
    report = pair(session)
    report.save(session.root / REPORT, {"mask": MASK_KIND})
    session.log_speed(report.speed())
    session.log_artifact(session.root / REPORT)


def pair(session: Session) -> JobReport:
    """Bring data/pairs in the storage up to date; Ray must run."""
    params = session.params
    return process_shards(
        plan_from(session.storage / RESTORED),
        pair_spec(params, session.shared(DAM)),
        session.storage / PAIRS,
        config_hash=pair_config_hash(params, session.root / DAM),
        resources=params.pair.resources,
        max_quarantine_ratio=params.data.max_quarantine_ratio,
    )


if __name__ == "__main__":
    main()
