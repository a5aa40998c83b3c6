"""Degrade every face and restore it both ways, with the prior or by pictures made elsewhere: data/restored.

python -m pipelines.synthesize
"""

from collections.abc import Sequence
from pathlib import Path

from cfpp.synthesis.degraded import HELD_OUT_VARIANTS, degrader
from cfpp.synthesis.folder_prior import count_faults, folder_config_hash, folder_spec, folders_of, plan_folder
from cfpp.synthesis.restored import restored_config_hash, restored_spec
from cfpp.synthesis.shard_work import ShardTask, WorkerSpec
from cfpp.synthesis.shards_job import JobReport, process_shards
from cfpp.synthesis.tars import plan_from
from pipelines.session import Session, run_stage

SHARDS = Path("data/shards")
RESTORED = Path("data/restored")
PRIOR = Path("models/prior")
REPORT = Path("reports/synthesize.json")


def main() -> None:
    run_stage("synthesize", work)


def work(session: Session) -> None:
    report, facts = synthesize(session)
    report.save(session.root / REPORT, facts)
    session.log_speed(report.speed())
    session.log_artifact(session.root / REPORT)


def synthesize(session: Session) -> tuple[JobReport, dict[str, object]]:
    """Bring data/restored in the storage up to date; Ray must run. Returns the job's report and facts."""
    params, prior, section = session.params, session.root / PRIOR, session.params.synthesize
    shards = session.storage / SHARDS
    facts: dict[str, object] = {
        "prior_kind": params.prior.kind,
        "variants_train": section.variants,
        "variants_held_out": HELD_OUT_VARIANTS,
    }
    tasks: Sequence[ShardTask]
    spec: WorkerSpec
    if params.prior.kind == "folder":
        plan = plan_folder(shards, folders_of(params, session.root), degrader(params))
        tasks, spec, identity = plan.tasks, folder_spec(params), folder_config_hash(params)
        facts |= plan.facts | ({"study": "controlled"} if plan.controlled else {})
    else:
        tasks, spec = plan_from(shards), restored_spec(params, session.shared(PRIOR))
        identity = restored_config_hash(params, prior)
    report = process_shards(
        tasks,
        spec,
        session.storage / RESTORED,
        config_hash=identity,
        resources=section.resources,
        max_quarantine_ratio=params.data.max_quarantine_ratio,
    )
    if params.prior.kind == "folder":
        facts |= count_faults(report.manifest.refused())
    return report, facts


if __name__ == "__main__":
    main()
