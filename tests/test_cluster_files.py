"""The cluster files, checked without a cloud: by Ray itself, a reduced KubeRay schema, and each other."""

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
KUBERAY = REPOSITORY / "deploy" / "kuberay"
SCHEMA = yaml.safe_load((REPOSITORY / "tests" / "schemas" / "kuberay.yaml").read_text())


def load(path: str) -> dict[str, Any]:
    content = yaml.safe_load((REPOSITORY / path).read_text())
    assert isinstance(content, dict)
    return content


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert found, f"{package} is not in requirements.lock"
    return found[1]


# the launcher's file


@pytest.fixture
def cluster() -> dict[str, Any]:
    return load("ray_cluster.yaml")


def validate_launcher(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does, before it asks the cloud anything; returns the file merged with Ray's defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return dict(prepared)


def workers(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = cluster["available_node_types"]
    return {name: types[name] for name in types if name != cluster["head_node_type"]}


def test_ray_accepts_the_launcher_file(cluster: dict[str, Any]) -> None:
    prepared = validate_launcher(cluster)
    # The defaults install other wheels, and boto3 outside the venv.
    assert prepared["setup_commands"] == cluster["setup_commands"]
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert prepared[key] == cluster["setup_commands"]
    assert locked("boto3")


def misspell(cluster: dict[str, Any]) -> None:
    cluster["idle_timeout_minuets"] = 10


def misspell_in_a_node_type(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["cpu_worker"]["node_configuration"] = {}


def name_no_head(cluster: dict[str, Any]) -> None:
    cluster["head_node_type"] = "headd"


def ask_for_more_than_the_maximum(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["cpu_worker"]["min_workers"] = cluster["max_workers"] + 1


def give_half_a_gpu(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_worker"]["resources"]["GPU"] = 0.5


@pytest.mark.parametrize(
    "spoil",
    [misspell, misspell_in_a_node_type, name_no_head, ask_for_more_than_the_maximum, give_half_a_gpu],
    ids=lambda spoil: spoil.__name__,
)
def test_ray_refuses_a_spoilt_launcher_file(
    cluster: dict[str, Any], spoil: Callable[[dict[str, Any]], None]
) -> None:
    spoil(cluster)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_launcher(cluster)


def test_the_head_runs_no_tasks_and_is_no_spot_instance(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert "InstanceMarketOptions" not in head["node_config"]
    start = cluster["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_workers_are_spot_instances_that_come_from_zero(cluster: dict[str, Any]) -> None:
    kinds = workers(cluster)
    for worker in kinds.values():
        assert worker["min_workers"] == 0
        assert worker["max_workers"] > 0
        assert worker["resources"]["CPU"] > 0
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert sum(worker["max_workers"] for worker in kinds.values()) <= cluster["max_workers"]
    assert {bool(worker["resources"].get("GPU")) for worker in kinds.values()} == {False, True}
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_the_paper_s_scale_fits_the_launcher_s_gpus(cluster: dict[str, Any]) -> None:
    train = load("profiles/ffhq512.yaml")["x-train"]
    gpu = [worker for worker in workers(cluster).values() if worker["resources"].get("GPU")]
    assert train["workers"] <= sum(worker["max_workers"] * worker["resources"]["GPU"] for worker in gpu)
    for worker in gpu:
        assert train["threads"] * worker["resources"]["GPU"] <= worker["resources"]["CPU"]


def test_every_node_has_an_image_and_a_role_that_the_guide_makes(cluster: dict[str, Any]) -> None:
    guide = (REPOSITORY / "docs" / "cluster.md").read_text()
    images = set()
    for node in cluster["available_node_types"].values():
        images.add(node["node_config"]["ImageId"])
        assert f"`{node['node_config']['IamInstanceProfile']['Name']}`" in guide
    assert len(images) == 1


def test_the_setup_installs_the_mounted_locks_and_nothing_else(cluster: dict[str, Any]) -> None:
    mounts = cluster["file_mounts"]
    for source in mounts.values():
        assert (REPOSITORY / source).is_file()
    setup = "\n".join(cluster["setup_commands"])
    assert set(re.findall(r"~/cfpp/[\w./-]+", setup)) == set(mounts)
    assert set(mounts.values()) == {"requirements.lock", "requirements-uv.lock"}
    installs = [line for line in cluster["setup_commands"] if re.search(r"pip (install|sync)", line)]
    assert len(installs) == 2
    assert all("--require-hashes" in line for line in installs)
    assert "://" not in setup


def test_ray_starts_from_the_environment_that_the_setup_makes(cluster: dict[str, Any]) -> None:
    assert any("uv venv" in line and "~/venv" in line for line in cluster["setup_commands"])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = cluster[key]
        assert stop == "~/venv/bin/ray stop"
        assert start.startswith("export PATH=~/venv/bin:$PATH && unset OMP_NUM_THREADS && ")
    for command in [
        *cluster["setup_commands"],
        *cluster["head_start_ray_commands"],
        *cluster["worker_start_ray_commands"],
    ]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_launcher_and_image_have_one_python_that_the_package_allows(cluster: dict[str, Any]) -> None:
    venv = re.search(r"uv venv .*--python (\d+\.\d+)", "\n".join(cluster["setup_commands"]))
    image = re.search(
        r"^FROM python:(\d+\.\d+)-slim$", (REPOSITORY / "deploy" / "Dockerfile").read_text(), re.M
    )
    allowed = re.search(
        r'requires-python = ">=(\d+\.\d+),<(\d+\.\d+)"', (REPOSITORY / "pyproject.toml").read_text()
    )
    assert venv
    assert image
    assert allowed
    assert venv[1] == image[1]
    low, python, high = (tuple(map(int, text.split("."))) for text in (allowed[1], venv[1], allowed[2]))
    assert low <= python < high


# Kubernetes


def manifests() -> dict[str, dict[str, Any]]:
    """The manifests of KubeRay's kinds, by kind; the service account is Kubernetes' own."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(KUBERAY.glob("*.yaml"))]
    return {manifest["kind"]: manifest for manifest in found if manifest["apiVersion"].startswith("ray.io/")}


def validate_manifest(manifest: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{manifest['kind']}", "$defs": SCHEMA["$defs"]}
    ).validate(manifest)


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayCronJob"])
def test_manifests_keep_to_the_reduced_kuberay_schema(kind: str) -> None:
    validate_manifest(manifests()[kind])


def spoil_cluster(spoil: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    manifest = copy.deepcopy(manifests()["RayCluster"])
    spoil(manifest["spec"])
    return manifest


def spoil_job(kind: str, spoil: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    manifest = copy.deepcopy(manifests()[kind])
    spoil(manifest["spec"])
    return manifest


SPOILT: dict[str, Callable[[], dict[str, Any]]] = {
    "a misspelt field of the cluster": lambda: spoil_cluster(
        lambda spec: spec.update(enableInTreeAutoscalling=True)
    ),
    "a misspelt field of a worker group": lambda: spoil_cluster(
        lambda spec: spec["workerGroupSpecs"][0].update(minReplica=0)
    ),
    "a worker group without its maximum": lambda: spoil_cluster(
        lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas")
    ),
    "a start parameter that is a number": lambda: spoil_cluster(
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})
    ),
    "an idle timeout that is a text": lambda: spoil_cluster(
        lambda spec: spec["autoscalerOptions"].update(idleTimeoutSeconds="600")
    ),
    "an amount of memory that is none": lambda: spoil_cluster(
        lambda spec: pods(spec)[1]["containers"][0]["resources"]["limits"].update(memory="24 GiB")
    ),
    "a pod without a container": lambda: spoil_cluster(lambda spec: pods(spec)[0].update(containers=[])),
    "a misspelt field of a container": lambda: spoil_cluster(
        lambda spec: pods(spec)[2]["containers"][0].update(volumeMount=[])
    ),
    "a job without a cluster": lambda: spoil_job("RayJob", lambda spec: spec.pop("clusterSelector")),
    "a job with two clusters": lambda: spoil_job(
        "RayJob", lambda spec: spec.update(rayClusterSpec=manifests()["RayCluster"]["spec"])
    ),
    "a schedule without its job": lambda: spoil_job("RayCronJob", lambda spec: spec.pop("jobTemplate")),
    "a job's field beside the schedule": lambda: spoil_job(
        "RayCronJob", lambda spec: spec.update(shutdownAfterJobFinishes=True)
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_the_reduced_schema_refuses(what: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_manifest(SPOILT[what]())


def test_scheduled_and_standing_cluster_are_one() -> None:
    found = manifests()
    scheduled = copy.deepcopy(found["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"])
    head = pods(scheduled)[0]
    claim = head["volumes"].pop()["persistentVolumeClaim"]["claimName"]
    assert claim == load("deploy/kuberay/workspace.yaml")["metadata"]["name"]
    assert head["containers"][0]["volumeMounts"].pop() == {"name": "work", "mountPath": "/work"}
    assert scheduled == found["RayCluster"]["spec"]
    assert found["RayJob"]["spec"]["clusterSelector"] == {
        "ray.io/cluster": found["RayCluster"]["metadata"]["name"]
    }
    assert found["RayCronJob"]["spec"]["jobTemplate"]["shutdownAfterJobFinishes"] is True


def test_the_schedule_has_five_fields_and_jobs_run_the_graph_of_the_image() -> None:
    found = manifests()
    assert re.fullmatch(r"[\d*/,-]+( [\d*/,-]+){4}", found["RayCronJob"]["spec"]["schedule"])
    workdir = re.search(r"^WORKDIR (\S+)$", (REPOSITORY / "deploy" / "Dockerfile").read_text(), re.M)
    assert workdir
    assert found["RayJob"]["spec"]["entrypoint"] == f"dvc --cd {workdir[1]} repro"
    shell, script, work = found["RayCronJob"]["spec"]["jobTemplate"]["entrypoint"].split()
    assert (REPOSITORY / Path(script).relative_to(workdir[1])).is_file()
    assert (shell, work.split("/")[1]) == ("bash", "work")


def test_kuberay_runs_the_locked_ray_in_an_image_of_this_version() -> None:
    spec = manifests()["RayCluster"]["spec"]
    assert spec["rayVersion"] == locked("ray")
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert version
    images = {pod["containers"][0]["image"] for pod in pods(spec)}
    assert len(images) == 1
    assert images.pop().rsplit("/", 1)[-1] == f"cfpp:{version[1]}"  # with or without a registry


def test_kuberay_s_head_runs_no_tasks_and_its_workers_come_from_zero() -> None:
    spec = manifests()["RayCluster"]["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpus = []
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus.append(group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0)))
    train = load("profiles/ffhq512.yaml")["x-train"]
    assert 0 in gpus
    assert sum(gpus) >= train["workers"]


def test_pods_have_shared_memory_a_cache_and_the_account_of_the_repository() -> None:
    account = load("deploy/kuberay/serviceaccount.yaml")
    assert account["kind"] == "ServiceAccount"
    for pod in pods(manifests()["RayCluster"]["spec"]):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        (cache,) = (variable["value"] for variable in container["env"] if variable["name"] == "CFPP_CACHE")
        assert cache in mounts
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_image_is_built_from_the_locks_and_leaves_out_what_git_ignores() -> None:
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    for name in re.findall(r"requirements[\w-]*\.lock", dockerfile):
        assert (REPOSITORY / name).is_file()
    assert dockerfile.count("--require-hashes") == 2
    assert "://" not in dockerfile.replace("RAY_ADDRESS=http://", "")
    left_out = (REPOSITORY / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ".git/" not in left_out
    names = {line.removeprefix("**/") for line in left_out}
    for line in (REPOSITORY / ".gitignore").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line.removeprefix("/") in names, line


# the guide


def test_the_guide_s_policies_are_json_and_its_files_exist() -> None:
    guide = (REPOSITORY / "docs" / "cluster.md").read_text()
    policies = re.findall(r"^```json\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert policies
    for policy in policies:
        assert {"Version", "Statement"} <= set(json.loads(policy))
    named = re.findall(
        r"(?:deploy/[\w./-]*\w\b(?!\*)|tests/[\w./-]+\.py|\b(?:ray_cluster|params)\.yaml)", guide
    )
    assert named
    for name in named:
        assert (REPOSITORY / name).exists(), name
