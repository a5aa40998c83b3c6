"""`mlflow models serve` on the registered restorer over HTTP, as docs/serving.md has it."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow.models.cli import commands
from PIL import Image

from cfpp.config import MlflowParams
from cfpp.registry.package import log_package, register
from cfpp.registry.runs import Store
from cfpp.restoration.request import MAX_BATCH, MAX_BODY, MAX_PIXELS
from cfpp.restoration.restorer import PARTS, Restorer
from tests.restoration.malformed import JSON, malformed
from tests.tiny_models import SIZE, write_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DOCUMENT = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
NAME = "codeformer-plus-plus"
PARAMS = MlflowParams(tracking_uri="sqlite:///mlflow.db", experiment="faces", model_name=NAME)


@dataclass(frozen=True)
class Server:
    """A server that answers at `port`, its tracking URI, and the restorer of the same weights here."""

    port: int
    pid: int
    store: str
    restorer: Restorer

    def ask(
        self, body: bytes, headers: dict[str, str], path: str = "/invocations", method: str = "POST"
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {name: v.encode("latin-1") for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def restore(self, pictures: np.ndarray, **params: Any) -> np.ndarray:
        request = {"inputs": pictures.tolist(), "params": params} if params else {"inputs": pictures.tolist()}
        status, text = self.ask(json.dumps(request).encode(), {"Content-Type": JSON})
        assert status == 200, text
        return np.array(json.loads(text)["predictions"])

    def peak_memory(self) -> int:
        """Most bytes that the process ever held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])


def documented(beginning: str) -> list[str]:
    """The commands of docs/serving.md that begin so."""
    return [line for line in DOCUMENT.splitlines() if line.startswith(beginning)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Tiny models, registered as champion and served; the models are gone before it answers."""
    root = tmp_path_factory.mktemp("project")
    models = write_models(root / "models")
    restorer = Restorer.load(models)
    store = Store.open(PARAMS, root)
    run = store.start_stage("register", store.start_parent("p", PARAMS, {}), {})
    version = register(log_package(models, PARTS, {}), NAME, {}).version
    run.end("FINISHED")
    mlflow.MlflowClient(store.uri).set_registered_model_alias(NAME, "champion", version)
    mlflow.set_tracking_uri(None)
    shutil.rmtree(models)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    [line] = documented("mlflow models serve")
    command = [sys.executable, "-m", *shlex.split(line.replace("--port 5001", f"--port {port}"))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "MLFLOW_TRACKING_URI": store.uri,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow calls uvicorn by its name
    }
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await(process, port, root / "server.log")
            [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Server(port, int(child), store.uri, restorer)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise AssertionError(f"no server: {log.read_text()[-3000:]}")


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def test_it_restores_bit_for_bit_as_the_models_do(server: Server, faces: np.ndarray) -> None:
    np.testing.assert_array_equal(server.restore(faces), server.restorer.restore(faces))
    by_two = server.restore(faces, aligned=True, batch_size=2, w=0)
    np.testing.assert_array_equal(by_two, server.restorer.restore(faces, batch_size=2))
    np.testing.assert_array_equal(server.restore(faces, w=1), server.restorer.trace(faces).id)
    np.testing.assert_array_equal(server.restore(faces, w=0.5), server.restorer.restore(faces, w=0.5))
    small = np.ascontiguousarray(faces[:1, :40, :40])
    np.testing.assert_array_equal(server.restore(small), server.restorer.restore(small))


def test_requests_at_once_get_each_its_own_answer(server: Server) -> None:
    draw = np.random.default_rng(6)
    asked = [
        (draw.integers(0, 256, (1 + i % 3, 40 + i, 40 + i, 3), dtype=np.uint8), i / 11) for i in range(12)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: server.restore(one[0], w=one[1]), asked))
    for (pictures, w), answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer, server.restorer.restore(pictures, w=w))


def test_200_malformed_requests_are_refused_and_leave_it_serving(server: Server, faces: np.ndarray) -> None:
    server.restore(faces)
    before = server.peak_memory()
    statuses: Counter[int] = Counter()
    names = set()
    for number, request in enumerate(malformed(seed=36, count=200)):
        status, text = server.ask(request.body, request.headers)
        where = f"request {number}, {request.name}: {status} {text[:300]}"
        assert status in (400, 413, 415), where
        answer = json.loads(text)
        assert answer["error_code"] == "BAD_REQUEST", where
        assert any(word in answer["message"] for word in ("expected", "must be", "more than", "none of")), (
            where
        )
        assert len(text) < 1000, where
        assert "Traceback" not in text, where
        statuses[status] += 1
        names.add(request.name)
        if number % 50 == 0:
            np.testing.assert_array_equal(server.restore(faces[:1]), server.restorer.restore(faces[:1]))
    assert names >= {"too many", "too large", "too long", "strings", "lists", "deep", "bomb", "gzip"}
    assert min(statuses[status] for status in (400, 413, 415)) > 3
    for method, path, status in (("GET", "/invocations", 405), ("POST", "/nowhere", 404)):
        assert server.ask(b"{}", {"Content-Type": JSON}, path, method)[0] == status
    np.testing.assert_array_equal(server.restore(faces), server.restorer.restore(faces))
    grown = server.peak_memory() - before
    assert grown < 1.5 * 2**30, f"{grown / 2**20:.0f} MiB"


def test_the_documented_requests_get_the_documented_answers(
    server: Server, faces: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = DOCUMENT.replace(":5001/", f":{server.port}/")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(faces[0]).save("face.png")
    [script] = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    exec(compile(script, "docs/serving.md", "exec"), {})
    restored = np.asarray(Image.open("restored.png"))
    np.testing.assert_array_equal(restored, server.restorer.restore(faces[:1], w=0.25)[0])
    [(command, answer)] = re.findall(r"```bash\n(curl[^\n]*)\n```\n```\n(.*?)\n```", document)
    assert (
        subprocess.run(shlex.split(command), check=True, stdout=subprocess.PIPE, text=True).stdout == answer
    )
    for limit in (MAX_PIXELS, MAX_BODY, MAX_BATCH):
        assert f" {limit:,} " in document


def test_the_documented_container_takes_the_model_along(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.store)
    monkeypatch.chdir(tmp_path)
    [generate] = documented("mlflow models generate-dockerfile")
    done = CliRunner().invoke(commands, shlex.split(generate)[2:])
    assert done.exit_code == 0, done.output
    [edit] = documented("sed ")
    subprocess.run(shlex.split(edit), check=True)
    assert "nginx libgl1 libglib2.0-0" in Path("image/Dockerfile").read_text()
    assert Path("image/model_dir/artifacts/tgrn/model.safetensors").is_file()
