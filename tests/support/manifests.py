"""Render the manifests in deploy/ like an operator."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# Kinds of the Prometheus operator and of cert-manager, which have no schemas here.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "Certificate", "Issuer"}

Objects = dict[str, dict[str, Any]]
"""Objects by their kind; those that are not named like the gateway, by `KIND/NAME`."""


def tool(*commands: list[str]) -> list[str]:
    """Return the first command whose program is installed; skip the test if there is none, except in CI."""
    for command in commands:
        if shutil.which(command[0]):
            return command
    names = " or ".join(command[0] for command in commands)
    assert not os.environ.get("CI"), f"{names}: not on the PATH; CI needs it"
    pytest.skip(f"{names}: not on the PATH")


def parsed(text: str) -> Objects:
    objects = [each for each in yaml.safe_load_all(text) if each]
    by_kind = {}
    for each in objects:
        name = each["metadata"]["name"]
        like_gateway = name == "jobgateway" or each["kind"] in ("ConfigMap", "Namespace")
        by_kind[each["kind"] if like_gateway else f"{each['kind']}/{name}"] = each
    assert len(by_kind) == len(objects)
    return by_kind


def render(folder: Path) -> Objects:
    """Render a kustomization."""
    # Not kubectl first: that of some clouds asks a cluster for its version, and waits 5 seconds if there is none.
    command = tool(["kustomize", "build"], ["kubectl", "kustomize"])
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)  # noqa: S603 - our own manifests
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def kustomize(folder: Path, text: str) -> Objects:
    """Render a kustomization with this text, which is written to `folder`/production, beside the manifests."""
    shutil.copytree(KUBERNETES, folder / "kubernetes")
    (folder / "production").mkdir(exist_ok=True)
    (folder / "production" / "kustomization.yaml").write_text(text)
    return render(folder / "production")


def with_components(folder: Path, *names: str) -> Objects:
    """Render the base with components, in this order."""
    components = ", ".join(f"../kubernetes/{name}" for name in names)
    return kustomize(folder, f"resources: [../kubernetes/base]\ncomponents: [{components}]\n")


def workload(objects: Objects) -> Any:
    return objects.get("Deployment") or objects["StatefulSet"]


def pod(objects: Objects) -> Any:
    return workload(objects)["spec"]["template"]["spec"]


def container(objects: Objects) -> Any:
    (only,) = pod(objects)["containers"]
    return only


def variables(objects: Objects) -> dict[str, str]:
    (source,) = container(objects)["envFrom"]
    assert source["configMapRef"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    data: dict[str, str] = objects["ConfigMap"]["data"]
    return data


def ports(objects: Objects) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container(objects)["ports"]}
