"""Examples of deployment: what they name is there, and what they promise they ask for.

`make lint-deploy` runs the linters and the schemas of Kubernetes over them.
"""

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distill.benchmarks.service_targets import Setting, Target, running

yaml = pytest.importorskip("yaml")
REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "docs" / "deploy"
PORT = 8000
BASE_BYTES = 119.2e6  # of python:3.12-slim-trixie on disk, see docs/production.md
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))
OF_KIND = {manifest["kind"]: manifest for manifest in MANIFESTS}
POD = OF_KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Words and what follows them, of a container file; comments and line ends are gone."""
    lines = (DEPLOY / name).read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    split = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest).strip()) for word, _, rest in split]


def of_last_stage(name: str) -> dict[str, str]:
    found = instructions(name)
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[last:])


def serve_command(python: Path, model: Path, port: int) -> list[str]:
    return [str(python), "-m", "distill", "serve", str(model), "--port", str(port)]


def unit() -> dict[str, list[str]]:
    """Settings of the systemd unit, by key; a key may come several times."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "distillate.service").read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def expressions(node: Any) -> Iterator[str]:
    for group in node["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def options_named() -> dict[str, set[str]]:
    """Options of the service that commands, comments and the page name, by where they stand."""
    page = (REPOSITORY / "docs" / "production.md").read_text("utf-8")
    run = page[page.index("distillate /models") :].splitlines()[0]
    commands = {
        "container": of_last_stage("Containerfile")["ENTRYPOINT"],
        "kubernetes": " ".join(CONTAINER["args"]),
        "systemd": unit()["ExecStart"][0],
        "proxy": (DEPLOY / "nginx.conf").read_text("utf-8"),
        "docker run": run,
    }
    option = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
    found = {where: set(option.findall(command)) for where, command in commands.items()}
    return found | {"page": set(re.findall(r"`(--[a-z-]+)`", page))}


@pytest.mark.parametrize("where", options_named())
def test_options_of_the_service_are_there(where):
    serve = pytest.importorskip("distill.cli.serve")
    parameters = inspect.signature(serve.serve_command).parameters
    known = {f"--{name.replace('_', '-')}" for name in parameters}
    named = options_named()[where]
    assert named
    assert named <= known


def test_paths_that_are_probed_are_there():
    edge = pytest.importorskip("distill.serve.edge")
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["path"] for probe in probes} == {"/readyz", "/healthz"}
    assert {probe["path"] for probe in probes} <= set(edge.OPEN)  # a probe has no token
    health = of_last_stage("Containerfile")["HEALTHCHECK"]
    assert f"http://127.0.0.1:{PORT}/healthz" in health


def test_metrics_of_the_alerts_are_counted():
    metrics = pytest.importorskip("distill.serve.metrics").Metrics()
    known = set(re.findall(r"# TYPE (\w+?)(?:_total)? ", metrics.text().decode()))
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))
    page = (REPOSITORY / "docs" / "production.md").read_text("utf-8")
    named = {
        re.sub(r"_(total|bucket|count|sum)$", "", name)
        for text in (*expressions(rules), page)
        for name in re.findall(r"\bdistillate_\w+", text)
    }
    assert len(named) > 3
    assert named <= known
    for expression in expressions(rules):
        assert expression.count("(") == expression.count(")")
        assert expression.count("[") == expression.count("]")


def test_ports_agree():
    assert of_last_stage("Containerfile")["EXPOSE"] == str(PORT)
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": PORT}]
    assert OF_KIND["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert f"server 127.0.0.1:{PORT};" in (DEPLOY / "nginx.conf").read_text("utf-8")


def test_everything_in_kubernetes_means_the_same_pods():
    labels = {"app": "distillate"}
    selectors = [
        OF_KIND["Deployment"]["spec"]["selector"]["matchLabels"],
        OF_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"],
        OF_KIND["Service"]["spec"]["selector"],
        OF_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        OF_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * len(selectors)
    assert OF_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "distillate"
    mounted = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounted == {volume["name"] for volume in POD["volumes"]}


def test_nobody_is_root_and_nothing_is_written_but_to_tmp():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of_last_stage("Containerfile")["USER"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of_last_stage("Containerfile.triton")["USER"])
    assert POD["securityContext"]["runAsNonRoot"] is True
    user = POD["securityContext"]["runAsUser"]
    assert of_last_stage("Containerfile")["USER"].split(":")[0] == str(user)
    own = CONTAINER["securityContext"]
    assert own["readOnlyRootFilesystem"] is True
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    writable = [mount for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")]
    assert [mount["mountPath"] for mount in writable] == ["/tmp"]
    settings = unit()
    assert settings["DynamicUser"] == settings["NoNewPrivileges"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    assert settings["CapabilityBoundingSet"] == [""]


def test_who_ends_a_service_waits_longer_than_it_takes():
    limits = pytest.importorskip("distill.serve.settings").Limits()
    sleeps = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > sleeps + limits.grace_s
    assert int(unit()["TimeoutStopSec"][0]) > limits.grace_s
    proxy = (DEPLOY / "nginx.conf").read_text("utf-8")
    (idle,) = re.findall(r"keepalive_timeout (\d+)s;", proxy)
    assert int(idle) < limits.keep_alive_s  # or a request meets a connection that is being closed
    (wait,) = re.findall(r"proxy_read_timeout (\d+)s;", proxy)
    assert int(wait) > limits.timeout_s
    (body,) = re.findall(r"client_max_body_size (\d+)m;", proxy)
    assert int(body) * 2**20 <= limits.max_bytes


def test_the_image_has_no_torch_and_is_built_from_the_checkout():
    steps = " ".join(rest for _, rest in instructions("Containerfile"))
    assert "[serve]" in steps
    assert not re.search(r"torch|\[(all|train)", steps)
    lines = (DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert [name for name in kept if not (REPOSITORY / name).exists()] == []
    packaged = re.findall(r'"distill\.\w+" = "(\w+)"', (REPOSITORY / "pyproject.toml").read_text())
    assert {*packaged, "distill", "pyproject.toml", "README.md", "LICENSE"} <= set(kept)


@pytest.mark.parametrize("script", ["docs/deploy/slim.sh", "docs/snippets/headers.sh"])
def test_scripts_are_shell(script):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    subprocess.run([bash, "-n", str(REPOSITORY / script)], check=True)


@pytest.mark.slow
def test_the_environment_of_the_image_is_small_and_answers(tmp_path, tiny_onnx):
    """What the container file does in its first stage, but for the base image's Python."""
    pytest.importorskip("distill.serve.settings")
    uv, strip = shutil.which("uv"), shutil.which("strip")
    if uv is None or strip is None:
        pytest.skip("needs uv and strip")
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.safetensors")
    for name in ("distill", "students", "teachers", "benchmarks"):
        shutil.copytree(REPOSITORY / name, tmp_path / "tree" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path / "tree" / name)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    install = [uv, "pip", "install", "-q", "--python", python, "--link-mode", "copy"]
    install += ["--constraint", REPOSITORY / "constraints.txt", f"{tmp_path / 'tree'}[serve]"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip("no package registry")
    assert done.returncode == 0, done.stderr
    subprocess.run([DEPLOY / "slim.sh", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    assert size < 250e6 - BASE_BYTES
    assert not (packages / "torch").exists()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}  # nothing of ours
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    ask = [python, "-m", "distill", "predict", tiny_onnx, tmp_path / "picture.png"]
    done = subprocess.run(ask, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    target = Target("image", lambda _, port: serve_command(python, tiny_onnx, port))
    with running(target, Setting(tiny_onnx, 1)) as service:
        assert service.memory_bytes()["rss"] > 0


def test_systemd_takes_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd")
    text = (DEPLOY / "distillate.service").read_text("utf-8")
    program = shutil.which("true")
    (tmp_path / "distillate.service").write_text(
        text.replace("/opt/distillate/bin/distill", str(program))
    )
    command = [analyze, "verify", str(tmp_path / "distillate.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
