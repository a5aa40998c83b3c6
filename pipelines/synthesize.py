"""Degrade every face and restore it both ways with the prior: data/restored.

python -m pipelines.synthesize
"""

from pathlib import Path

from cfpp.config import Params
from cfpp.synthesis.restored import HELD_OUT_VARIANTS, plan_from, restored_config_hash, restored_spec
from cfpp.synthesis.shards_job import JobReport, process_shards
from pipelines.session import open_stage

SHARDS = Path("data/shards")
RESTORED = Path("data/restored")
PRIOR = Path("models/prior")
REPORT = Path("reports/synthesize.json")


def main() -> None:
    with open_stage("synthesize") as session:
        report = synthesize(session.params, session.root)
        facts = {"variants_train": session.params.synthesize.variants, "variants_held_out": HELD_OUT_VARIANTS}
        report.save(session.root / REPORT, facts)
        session.log_metrics(report.speed())
        session.log_artifact(session.root / REPORT)


def synthesize(params: Params, root: Path) -> JobReport:
    """Bring `root`/data/restored up to date; Ray must run."""
    return process_shards(
        plan_from(root / SHARDS),
        restored_spec(params, root / PRIOR),
        root / RESTORED,
        config_hash=restored_config_hash(params, root / PRIOR),
        workers=params.synthesize.workers,
        use_gpu=params.synthesize.use_gpu,
        max_quarantine_ratio=params.data.max_quarantine_ratio,
    )


if __name__ == "__main__":
    main()
