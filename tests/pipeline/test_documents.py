"""Every command of the documents that a user begins with is run: here, or by the test that is named here."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cfpp.cli import main as cfpp
from cfpp.config import load_params
from cfpp.data.pictures import encode_png
from cfpp.data.samples import SampleStore
from pipelines import promote, rollback
from tests.pipeline.project import REPOSITORY, Project

DOCUMENTS = ("README.md", "docs/quickstart.md", "docs/registry.md", "docs/retraining.md")

# A command that takes minutes, a network, a browser or a cluster, and the test that runs it.
ELSEWHERE = {
    "make repro": "tests/pipeline/test_graph.py",
    "make test": "tests/pipeline/test_documents.py",
    "cfpp profile": "tests/test_cli.py",
    "cfpp demo": "tests/demo/test_page.py",
    "cfpp restore PHOTOGRAPHS": "tests/test_cli.py",
    "cfpp testset align": "tests/evaluation/test_testsets.py",
    "cfpp weights fetch": "tests/test_weights_command.py",
    "cfpp prior import": "tests/models/test_official.py",
    "python -m pipelines.ablate": "tests/pipeline/test_ablate_dvc.py",
    "python -m benchmarks.gate": "tests/evaluation/test_gate_simulation.py",
    "python -m pipelines.retrain --now": "tests/pipeline/test_retrain.py",
    "python -m pipelines.submit_retrain": "tests/pipeline/test_jobs.py",
    "RAY_ADDRESS=http://HEAD:8265 dvc repro": "tests/pipeline/test_jobs.py",
}
BY_HAND = ("source .venv/bin/activate", "$EDITOR params.yaml", "git diff params.yaml")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1500)]


def commands(document: str) -> list[str]:
    """What the document's shell blocks hold, one command a line, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (REPOSITORY / document).read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+#\s.*", "", line).strip() for line in lines]
    return [" ".join(line.split()) for line in found if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def prepared(graph: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished graph with three versions, of which two have been champions, and faces."""
    project = Project.__new__(Project)
    project.folder = tmp_path_factory.mktemp("documents") / "project"
    shutil.copytree(graph.folder, project.folder, symlinks=True)
    for reason in ("the first one", "the second one"):
        project.run("python", "-m", "pipelines.promote", "--force", "--reason", reason)
        project.run("python", "-m", "pipelines.register")
    store = SampleStore(project.folder, "test", ("hq", "lq"))
    for index, (key, _) in enumerate(store.items):
        for folder, column in (("FACES", "hq"), ("out/peer", "lq")):
            (project.folder / folder).mkdir(parents=True, exist_ok=True)
            picture = encode_png(store.pictures(index)[column])
            (project.folder / folder / f"{key}.png").write_bytes(picture)
    return project


@pytest.fixture
def project(prepared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it for each document."""
    copy = Project.__new__(Project)
    copy.folder = tmp_path / "project"
    shutil.copytree(prepared.folder, copy.folder, symlinks=True)
    monkeypatch.chdir(copy.folder)
    monkeypatch.setenv("PATH", copy.environment["PATH"])
    return copy


def runner(command: str, project: Project) -> Callable[[], int] | None:
    """What runs a command in this process or, where it must, in one of its own; None if nothing here does."""
    words = shlex.split(command)
    match words:
        case ["cfpp", *rest]:
            return lambda: cfpp(rest)
        case ["python", "-m", "pipelines.promote", *rest]:
            return lambda: promote.main(rest)
        case ["python", "-m", "pipelines.rollback", *rest]:
            return lambda: rollback.main(rest)
        case ["dvc", *_] | ["python", "-m", "pipelines.retrain"]:
            return lambda: len(project.run(*words)) * 0
    return None


def filled_in(command: str) -> str:
    """The command with its placeholders filled in for the prepared project."""
    store = SampleStore(Path.cwd(), "train", ("hq",))
    if "--absent" in command:
        return command.replace("KEY", "nobody")
    return command.replace("KEY", store.items[0][0])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_runs(document: str, project: Project) -> None:
    for command in commands(document):
        if command in BY_HAND:
            continue
        named = [test for beginning, test in ELSEWHERE.items() if command.startswith(beginning)]
        if named:
            assert (REPOSITORY / named[0]).is_file(), named
            continue
        run = runner(filled_in(command), project)
        assert run is not None, f"{document}: nothing runs: {command}"
        allowed = {0, promote.REFUSED_CODE} if "pipelines.promote" in command else {0}
        assert run() in allowed, f"{document}: {command}"


def test_the_way_back_was_walked(project: Project) -> None:
    """What the documents' commands do is seen in the registry, too."""
    name = load_params().mlflow.model_name
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")

    def champion() -> str:
        return str(client.get_model_version_by_alias(name, "champion").version)

    assert promote.main(["--force", "--reason", "a test"]) == 0
    assert champion() == "3"
    for version in "21":
        assert rollback.main(["--reason", "a test"]) == 0
        assert champion() == version
