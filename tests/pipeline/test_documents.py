"""Every command of the documents that a user begins with is run: here, or by the test that is named here."""

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cfpp.cli import build_parser
from cfpp.cli import main as cfpp
from cfpp.config import load_params
from cfpp.data.pictures import decode_photo, encode_png
from cfpp.data.samples import SampleStore
from pipelines import promote, rollback
from tests.pipeline.project import REPOSITORY, Project

DOCUMENTS = ("README.md", "docs/quickstart.md", "docs/registry.md", "docs/retraining.md")

# A command that takes minutes, a network, a browser or a cluster, and the test that runs it, or its like.
ELSEWHERE = {
    "make repro": "pipeline/test_graph.py::test_again_with_nothing_changed_no_stage_runs",  # what it calls
    "make test": "pipeline/test_documents.py::test_every_command_of_a_document_runs",
    "cfpp demo": "demo/test_page.py::test_a_face_is_restored_by_clicks_and_a_corrupt_file_gets_a_message",
    "cfpp weights fetch codeformer.pth --root weights": "test_weights_command.py::"
    "test_a_good_file_is_fetched_once",
    "cfpp prior import weights/codeformer.pth": "models/test_official.py::"
    "test_there_and_back_through_the_commands",
    "python -m pipelines.ablate": "pipeline/test_ablate_dvc.py::"
    "test_each_computes_only_what_it_changes_and_the_project_stays",
    "python -m benchmarks.gate": "evaluation/test_gate_simulation.py::"
    "test_the_measurement_can_be_repeated_by_one_command",
    "python -m benchmarks.gate CHAMPION/per_image.csv CHALLENGER/per_image.csv": "evaluation/"
    "test_gate_simulation.py::test_the_measurement_can_be_repeated_by_one_command",
    "python -m pipelines.retrain --now": "pipeline/test_graph.py::"
    "test_retrain_puts_what_the_graph_made_before_the_gate",
    "RAY_ADDRESS=http://HEAD:8265 dvc repro": "pipeline/test_jobs.py::"
    "test_a_failing_job_fails_dvc_repro_with_its_last_lines",
}
SUBMIT = (
    "python -m pipelines.submit_retrain --address http://HEAD:8265 --project /home/ubuntu/cfpp --period week"
)
ELSEWHERE |= dict.fromkeys(
    (SUBMIT, f"{SUBMIT} --now"),
    "pipeline/test_jobs.py::test_the_submitted_command_runs_in_the_project_on_the_head",
)
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


def prepare_photographs(project: Project, shared: Path) -> Path:
    """A project beside it with the same registry, a face detector, and a photograph in PHOTOGRAPHS."""
    folder = project.folder.with_name("photographs")
    if not folder.exists():
        (folder / "PHOTOGRAPHS").mkdir(parents=True)
        text = (project.folder / "params.yaml").read_text()
        text = text.replace("sqlite:///mlflow.db", f"sqlite:///{project.folder}/mlflow.db")
        text, count = re.subn(r'(weights:\n  root:) ""', rf"\1 {shared / 'weights'}", text)
        assert count == 1
        (folder / "params.yaml").write_text(text)
        [face, *_] = sorted((shared / "faces/test").iterdir())
        canvas = np.full((700, 900, 3), 128, np.uint8)
        canvas[100:612, 200:712] = decode_photo(face.read_bytes())[:512, :512]
        (folder / "PHOTOGRAPHS/one.png").write_bytes(encode_png(canvas))
    return folder


def run(command: str, project: Project, shared: Path) -> int:
    """Run a command, its placeholders filled in, in this process or, where it must, in one of its own."""
    key = SampleStore(project.folder, "train", ("hq",)).items[0][0]
    words = shlex.split(command.replace("KEY", "nobody" if "--absent" in command else key))
    match words:
        case ["cfpp", "profile", name]:  # in a folder of its own: what follows is for this project's params
            other = project.folder.with_name(f"profile-{name}")
            (other / "profiles").mkdir(parents=True)
            for file in ("params.yaml", f"profiles/{name}.yaml"):
                shutil.copy(REPOSITORY / file, other / file)
            return within(other, words[1:])
        case ["cfpp", *rest] if "PHOTOGRAPHS" in rest:
            return within(prepare_photographs(project, shared), rest)
        case ["cfpp", *rest]:
            return cfpp(rest)
        case ["python", "-m", "pipelines.promote", *rest]:
            return promote.main(rest)
        case ["python", "-m", "pipelines.rollback", *rest]:
            return rollback.main(rest)
        case ["dvc", "repro"] | ["python", "-m", "pipelines.retrain"]:
            project.run(*words)
            return 0
    raise AssertionError(f"nothing runs: {command}")


def within(folder: Path, words: list[str]) -> int:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return cfpp(words)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_runs(document: str, project: Project, shared: Path) -> None:
    for command in commands(document):
        if command in BY_HAND:
            continue
        if command.startswith("cfpp "):
            build_parser().parse_args(shlex.split(command)[1:])
        if command in ELSEWHERE:
            file, test = ELSEWHERE[command].split("::")
            assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(), command
            continue
        allowed = {0, promote.REFUSED_CODE} if "pipelines.promote" in command else {0}
        assert run(command, project, shared) in allowed, f"{document}: {command}"


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
