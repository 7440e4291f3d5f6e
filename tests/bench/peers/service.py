"""The peer of the benchmark: commands in pods behind an HTTP endpoint, each by an exec of its own.

As the documentation of FastAPI and of the Kubernetes client shows it. The environment is the name of its pod.
"""

import os
import shlex

from fastapi import FastAPI
from kubernetes import client, config
from kubernetes.stream import stream
from pydantic import BaseModel

config.load_kube_config()
pods = client.CoreV1Api()
namespace = os.environ["NAMESPACE"]
app = FastAPI()


class Exec(BaseModel):
    environment_id: str
    command: str
    workdir: str = "/app"


@app.get("/health")
def health() -> dict:
    return {"status": "ok"}


@app.post("/exec_in_environment")
def exec_in_environment(request: Exec) -> dict:
    script = f"cd {shlex.quote(request.workdir)} && {request.command}"
    running = stream(
        pods.connect_get_namespaced_pod_exec,
        request.environment_id,
        namespace,
        command=["sh", "-c", script],
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    running.run_forever()
    return {
        "stdout": running.read_stdout(),
        "stderr": running.read_stderr(),
        "exit_code": running.returncode,
    }
