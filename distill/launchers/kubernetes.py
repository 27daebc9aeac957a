"""Workers as an Indexed Job of Kubernetes, on a volume that all pods can write to.

Written from the API's documentation and held against its schema; no cluster was at hand to try it.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any

from pydantic import Field

from distill.files import write_json
from distill.launchers import Launcher as Base
from distill.launchers import Work

Word = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9./:@_-]*$")
]
RETRIES = 6  # of each worker; being moved to another node is none


class Launcher(Base):
    """A manifest of a Job, in JSON, which `kubectl` reads as it does YAML."""

    image: Word = "distillate-train"
    """An image with `distillate[train]`, whose command is `distill`."""
    volume: Word = "distillate"
    """A claim (PersistentVolumeClaim) of access mode ReadWriteMany."""
    mount: Annotated[str, Field(pattern=r"^/[^\\n]*$")] = "/work"
    """Where the volume is in a pod: recipe, data and `--out` have to lie below it."""
    gpus: Annotated[int, Field(ge=0)] = 1
    cpus: Annotated[int, Field(ge=1)] = 8
    memory: Annotated[str, Field(pattern=r"^[0-9]+(Ki|Mi|Gi|Ti)$")] = "32Gi"

    def launch(self, work: Work) -> None:
        """Writes the manifest, and says how it is submitted."""
        place = work.folder / f"{work.name}.job.json"
        write_json(place, self.manifest(work))
        work.say(f"submit it: kubectl apply --filename {shlex.quote(str(place))}")

    def manifest(self, work: Work) -> dict[str, Any]:
        """The Job: a pod for each worker, none of which counts as failed when it is evicted."""
        limits = {"memory": self.memory}
        if self.gpus:
            limits["nvidia.com/gpu"] = str(self.gpus)
        container = {
            "name": "worker",
            "image": self.image,
            "args": list(work.arguments),
            "workingDir": self.mount,
            "resources": {
                "requests": {"cpu": str(self.cpus), "memory": self.memory},
                "limits": limits,
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "work", "mountPath": self.mount},
                {"name": "scratch", "mountPath": "/tmp"},
            ],
        }
        evicted = {"type": "DisruptionTarget", "status": "True"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": work.name, "labels": {"app.kubernetes.io/name": "distillate"}},
            "spec": {
                "completionMode": "Indexed",
                "completions": work.workers,
                "parallelism": work.workers,
                "backoffLimitPerIndex": RETRIES,
                "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [evicted]}]},
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "containers": [container],
                        "volumes": [
                            {"name": "work", "persistentVolumeClaim": {"claimName": self.volume}},
                            {"name": "scratch", "emptyDir": {}},
                        ],
                    }
                },
            },
        }
