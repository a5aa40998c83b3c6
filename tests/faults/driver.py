"""A driver of its own, to be killed: `python -m tests.faults.driver STORAGE MODELS RAY_ADDRESS`."""

import sys
from pathlib import Path

import ray

from cfpp.storage import place_of
from tests.faults.slow_stage import synthesize

ray.init(address=sys.argv[3], logging_level="ERROR", log_to_driver=False)
report = synthesize(place_of(sys.argv[1]), Path(sys.argv[2]))
sys.stdout.write(f"{report.done} {report.skipped}\n")
