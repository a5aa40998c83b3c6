"""Faces of a folder, or procedural ones, into shards of square clean faces: data/shards.

python -m pipelines.shard
"""

import logging
from pathlib import Path
from typing import Any

from cfpp.config import Params
from cfpp.storage import Place
from cfpp.synthesis.faces import face_config_hash, face_spec, list_source, plan_faces
from cfpp.synthesis.shards_job import JobReport, process_shards
from pipelines.session import Session, run_stage

log = logging.getLogger("pipelines.shard")

SHARDS = Path("data/shards")
REPORT = Path("reports/shard.json")


def main() -> None:
    run_stage("shard", work)


def work(session: Session) -> None:
    report, facts = shard(session.params, session.storage)
    report.save(session.root / REPORT, facts)
    session.log_speed(report.speed())
    session.log_metrics({"faces_listed": facts["listed"]})
    session.log_artifact(session.root / REPORT)


def shard(params: Params, storage: Place) -> tuple[JobReport, dict[str, Any]]:
    """Bring data/shards in the storage up to date; Ray must run.

    Returns:
        What was done, and facts of the listing for the report.
    """
    listing = list_source(params.data)
    if listing.ignored:
        shown = ", ".join(listing.ignored[:5])
        log.warning("%d files are no pictures and ignored, such as %s", len(listing.ignored), shown)
    report = process_shards(
        plan_faces(params, listing),
        face_spec(params),
        storage / SHARDS,
        config_hash=face_config_hash(params),
        resources=params.data.resources,
        max_quarantine_ratio=params.data.max_quarantine_ratio,
    )
    for row in report.manifest.refused()[:20]:
        log.warning("quarantined %s: %s", row.source, row.reason)
    faces = listing.faces + listing.held_out
    people = {face.identity for face in faces}
    return report, {"listed": len(faces), "ignored": len(listing.ignored), "identities": len(people)}


if __name__ == "__main__":
    main()
