"""A graph of three quick stages for `retrain` and a quick gate: dvc is real, and so is our command.

Copied into a project as `graph.py`; each stage says in `ledger` that it began and ended, and holds a lock
that tells whether two ran at a time.
"""

import fcntl
import json
import sys
import time
from pathlib import Path

GRAPH = """
stages:
  shard:
    cmd: python graph.py shard
    deps: [faces]
    outs: [data/shards: {persist: true}]
  train:
    cmd: python graph.py train
    deps: [data/shards]
    outs: [models/m]
  register:
    cmd: python graph.py register
    deps: [models/m]
    outs: [reports/registered.json: {cache: false}]
"""

GATE = '''
"""A gate whose decision lies in a file, and which records each promotion."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Outcome:
    decision: str
    table: str
    record: dict


def promote(params, root, *, reference):
    time.sleep(0.5)
    decision = Path("gate").read_text() if Path("gate").exists() else "promoted"
    if decision == "promoted":
        partial = Path("champion.tmp")
        partial.write_text(reference)
        partial.replace("champion")
    return Outcome(decision, "| metric | better |", {"version": reference})
'''


def stage(name: str) -> None:
    with Path("one-at-a-time").open("w") as lock, Path("ledger").open("a") as ledger:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name} overlap", file=ledger, flush=True)
        print(f"{name} begin", file=ledger, flush=True)
        time.sleep(float(Path("seconds").read_text()))
        if Path("fail").exists() and Path("fail").read_text() == name:
            sys.exit("the disk is full of holes")
        if name == "shard":
            Path("data/shards").mkdir(parents=True, exist_ok=True)
            Path("data/shards/manifest.parquet").write_bytes(Path("faces").read_bytes())
        elif name == "train":
            Path("models").mkdir(exist_ok=True)
            Path("models/m").write_bytes(Path("data/shards/manifest.parquet").read_bytes())
        else:
            Path("reports").mkdir(exist_ok=True)
            lines = Path("ledger").read_text().splitlines()
            version = 1 + lines.count("register end")
            Path("reports/registered.json").write_text(json.dumps({"version": version}))
        print(f"{name} end", file=ledger, flush=True)


if __name__ == "__main__":
    stage(sys.argv[1])
