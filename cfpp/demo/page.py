"""How the demo page looks, in gradio. Nothing of it comes from, or goes to, the network.

`silence_gradio` must run before gradio is imported, so this module imports it in its functions.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfpp.data.pictures import Picture, encode_png
from cfpp.demo.workbench import MAX_BYTES, Kind, NothingChosenError, Outcome, Workbench, read
from cfpp.errors import MendableError

TITLE = "CodeFormer++"
FIRST_PORT = 7860  # gradio takes the first free one of a hundred from here

_CSS = """
footer {display: none !important}
.gradio-container {max-width: 1240px !important; margin: auto}
#examples .grid-container {grid-template-columns: repeat(6, 1fr) !important; grid-auto-rows: auto; padding: 0}
#preview img {width: 100%; height: 100%; object-fit: contain}
"""
_W = "0: as trained, with the most texture. 1: the identity-preserving restoration alone, I_F."
_HINT = "Upload a picture or click an example, then press **Restore**."


def silence_gradio(folder: Path) -> None:
    """Turn off gradio's analytics and Hugging Face's hub, and keep uploads in `folder`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio knocks at its own door


def build(workbench: Workbench, examples: Sequence[Picture]) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        examples: aligned faces to try it with, uint8 [S, S, 3] RGB.
    """
    import gradio as gr

    opened, kinds = workbench.opened, [kind.value for kind in workbench.kinds]
    samples = [encode_png(picture) for picture in examples]

    def shown(action: Any) -> dict[Any, Any]:
        """What `action` changes on the page; of what is wrong with a picture, only the message."""
        try:
            return dict(action())
        except NothingChosenError as error:
            return {status: f"{error}"}
        except (MendableError, MemoryError) as error:
            reason = str(error) or "too large for this machine's memory"
            return {status: f"⚠️ This picture cannot be restored: {reason.rstrip('.')}.", slider: None}

    def choose(data: bytes | None) -> dict[Any, Any]:
        return {upload_data: data} | shown(lambda: {preview: read(data), slider: None, status: _HINT})

    def upload(data: bytes | None) -> dict[Any, Any]:
        return {preview: None, kind: kinds[0]} | choose(data)

    def clear() -> dict[Any, Any]:
        return {upload_data: None, preview: None, slider: None, status: _HINT}

    def take_example(event: gr.SelectData) -> dict[Any, Any]:
        return {file: None, kind: Kind.ALIGNED.value} | choose(samples[event.index])

    def restore(data: bytes | None, kind: str, w: float) -> dict[Any, Any]:
        def changes() -> dict[Any, Any]:
            outcome: Outcome = workbench.restore(data, Kind(kind), w)
            return {
                slider: (outcome.before, outcome.after),
                preview: outcome.marked,
                status: outcome.message,
            }

        return shown(changes)

    def restore_again(data: bytes | None, kind: str, w: float) -> dict[Any, Any]:
        return restore(data, kind, w) if data is not None else {status: _HINT}

    # uploads are forgotten an hour after they came, and all of them when the command ends
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        upload_data = gr.State(None)
        gr.Markdown(f"## {TITLE}\nModel: **{opened.title}** · weights: {opened.weights}", elem_id="version")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                file = gr.File(
                    label=" or ".join(kinds).capitalize(), type="binary", height=140, elem_id="upload"
                )
                if workbench.why_aligned_only:
                    gr.Markdown(workbench.why_aligned_only, elem_id="aligned-only")
                gr.Markdown("Or try drawn faces of people who do not exist:")
                gallery = gr.Gallery(
                    list(examples),
                    show_label=False,
                    container=False,
                    columns=max(1, len(examples)),
                    height=90,
                    format="png",
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )
                preview = gr.Image(
                    label="Input", format="png", interactive=False, height=330, buttons=[], elem_id="preview"
                )
            with gr.Column(scale=3, min_width=420):
                slider = gr.ImageSlider(
                    label="Before | after", format="png", interactive=False, max_height=520, elem_id="result"
                )
                with gr.Row():
                    w = gr.Slider(0, 1, 0, step=0.05, label="w", info=_W, elem_id="w")
                    kind = gr.Radio(
                        kinds,
                        value=kinds[0],
                        label="The picture is a",
                        visible=len(kinds) > 1,
                        elem_id="kind",
                    )
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                status = gr.Markdown(_HINT, elem_id="status")

        chosen = [upload_data, preview, slider, status, kind]
        made = [slider, preview, status]
        asked = [upload_data, kind, w]
        file.upload(upload, file, chosen, api_visibility="private")
        file.clear(clear, None, chosen, api_visibility="private")
        gallery.select(take_example, None, [file, *chosen], api_visibility="private")
        # one restoration at a time has the memory, whoever asks for it
        button.click(restore, asked, made, api_visibility="private", concurrency_id="restore")
        w.release(restore_again, asked, made, api_visibility="private", concurrency_id="restore")
    return page


def launch(page: Any, *, host: str, port: int | None, browser: bool) -> str:
    """Serve the page from threads of this process; returns its address.

    Raises:
        MendableError: the port is taken, or `host` is not this machine's.
    """
    import gradio as gr

    try:
        _, address, _ = page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_BYTES,
            footer_links=[],
            theme=gr.themes.Default(),
            css=_CSS,
        )
    except OSError as error:
        where = f"{host}:{port or FIRST_PORT}"
        raise MendableError(
            f"{where}: the page cannot be served there: {error}; try another --port"
        ) from error
    return str(address)
