"""`cfpp demo`: a local web page to restore pictures with."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Add `demo` to the sub-parsers of argparse."""
    demo = commands.add_parser("demo", help="serve a local web page that restores pictures")
    demo.add_argument(
        "--model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder of models (default: @champion)"
    )
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    demo.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    demo.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")
    demo.add_argument("--open", action="store_true", help="open the page in the browser")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    import signal
    import tempfile
    import time
    from pathlib import Path

    from cfpp.config import load_params
    from cfpp.demo.page import build, launch, silence_gradio
    from cfpp.demo.workbench import Workbench, examples
    from cfpp.registry.provenance import RegistryError
    from cfpp.registry.restorers import named_device, open_restorer

    params = load_params()
    reference = options.model or f"models:/{params.mlflow.model_name}@champion"
    try:
        opened = open_restorer(reference, params.mlflow, Path.cwd(), named_device(options.device))
    except RegistryError as error:
        raise RegistryError(f"{error}. A folder of models needs no registry: --model models") from error
    workbench = Workbench.of(opened, params.weights.root)
    with tempfile.TemporaryDirectory(prefix="cfpp-demo-") as uploads:
        silence_gradio(Path(uploads))
        page = build(workbench, examples(params, opened.restorer.size))
        address = launch(page, host=options.host, port=options.port, browser=options.open)
        print(f"{opened.title} at {address} (Ctrl-C ends it)", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the uploads go away then, too
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            page.close(verbose=False)
