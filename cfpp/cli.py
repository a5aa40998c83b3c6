"""`cfpp`: the small commands beside the pipeline.

cfpp profile NAME            merge profiles/NAME.yaml into params.yaml
cfpp doctor                  check that this machine is ready, and say what to do where it is not
cfpp faces OUT               draw a contact sheet of the embedded faces
cfpp restore IN [IN ...] OUT restore photographs or aligned faces with the champion
cfpp demo                    serve a local web page that restores them
cfpp testset synthetic A OUT degrade clean faces: a test set with its truth
cfpp testset align A OUT     find the faces of raw photographs and align them
cfpp evaluate NAME=DIR ...   measure restorers' pictures, and compare them in one table
cfpp prior inputs OUT        write the degraded faces that another prior is to restore
cfpp prior import FILE [OUT] make a model folder of an official CodeFormer checkpoint
cfpp prior export FILE       write models/prior as a checkpoint that the public CodeFormer code loads
cfpp controlled OUT          write the controlled study's pictures and the true flows between them
cfpp weights list            say which networks from elsewhere are there, good, or missing
cfpp weights fetch NAME ...  download them into weights.root and check their sha256
cfpp verify                  compare every byte of data/ with the manifests
cfpp verify --absent KEY ... prove that nothing names a face any more
cfpp lineage KEY             follow a face from its source to the models that learnt from it
cfpp lineage --model VERSION walk from a model version back to its data
cfpp registry list           show the versions of the restorer, their aliases and figures
cfpp registry history        say who was champion when, by whom and why
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from cfpp.commands import (
    audit,
    controlled,
    demo,
    doctor,
    evaluate,
    faces,
    params,
    prior,
    registry,
    restore,
    testset,
    weights,
)
from cfpp.errors import MendableError

# Unless the user says otherwise: no usage statistics leave the machine, and a tracking server that is down is
# given up soon, for somebody waits; MLflow itself tries for four minutes.
_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="cfpp", description="CodeFormer++ pipelines")
    commands = parser.add_subparsers(dest="command", required=True)
    tools = (params, doctor, faces, testset, evaluate, prior, controlled, audit, weights)
    for group in (restore, demo, registry, *tools):
        group.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 not, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        options.run(options)
    except (MendableError, OSError) as error:  # what is wrong with a file or a disk can be mended, too
        print(f"cfpp {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"cfpp {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
