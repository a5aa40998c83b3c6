"""Warp I_G onto I_F with the DAM, and make the anchor-positives: data/pairs.

python -m pipelines.pair
"""

from pathlib import Path

from cfpp.config import Params
from cfpp.synthesis.pairs import MASK_KIND, pair_config_hash, pair_spec
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import plan_from
from pipelines.session import open_stage

RESTORED = Path("data/restored")
PAIRS = Path("data/pairs")
DAM = Path("models/dam")
REPORT = Path("reports/pair.json")


def main() -> None:
    with open_stage("pair") as session:
        report = pair(session.params, session.root)
        report.save(session.root / REPORT, {"mask": MASK_KIND})
        session.log_metrics(report.speed())
        session.log_artifact(session.root / REPORT)


def pair(params: Params, root: Path) -> JobReport:
    """Bring `root`/data/pairs up to date; Ray must run."""
    return process_shards(
        plan_from(root / RESTORED),
        pair_spec(params, root / DAM),
        root / PAIRS,
        config_hash=pair_config_hash(params, root / DAM),
        workers=params.pair.workers,
        use_gpu=params.pair.use_gpu,
        max_quarantine_ratio=params.data.max_quarantine_ratio,
    )


if __name__ == "__main__":
    main()
