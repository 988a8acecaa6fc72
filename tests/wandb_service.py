"""What wandb-core asks of a W&B server while it follows a run, answered on the loopback as the real one answers.

Runs are resumed as there: the service is told how many lines of history there are and what stands in the last one, and
writes on from that line. Lines, summary, state, config, tags and files of a run can be looked at.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "a-team"


@dataclass
class ServedRun:
    """One run as the server has it."""

    name: str
    told: dict[str, Any] = field(default_factory=dict)
    """The last value of each variable of the mutation that makes and changes runs."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    """By file, such as wandb-history.jsonl."""

    files: dict[str, bytes] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    """The state at each end, as the exit code tells it."""

    is_preempting: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, with the steps and without what W&B adds."""
        rows = [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]
        return [{"step": row["_step"], **{key: value for key, value in row.items() if key[0] != "_"}} for row in rows]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json", ["{}"])
        summary: dict[str, Any] = json.loads(lines[-1])
        return summary

    @property
    def config(self) -> dict[str, Any]:
        return {key: item["value"] for key, item in json.loads(self.told["config"]).items() if key != "_wandb"}


class Service:
    """The runs of one server by name, and all that was asked of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runs: dict[str, ServedRun] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        """What is told of each, by name."""

        self.asked: list[str] = []
        self.lock = threading.Lock()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        with self.lock:
            if path == "/graphql":
                question = json.loads(body)
                name = question.get("operationName") or re.findall(r"(?:query|mutation) (\w+)", question["query"])[0]
                self.asked.append(name)
                return {"data": getattr(self, f"_{name}", _nothing)(question.get("variables") or {})}
            self.asked.append(path)
            kind, *_, run, last = path.strip("/").split("/")
            if kind == "artifacts":
                self.artifacts[run].setdefault("files", {})[last] = body
            elif kind == "storage":
                self.runs[run].files[last] = body
            elif last == "file_stream":
                self._stream(self.runs[run], json.loads(body))
            return {}

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"viewer": {"id": "1", "entity": ENTITY, "username": "a", "flags": "{}", "teams": {"edges": []}}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.get(asked["name"])
        if run is None:
            return {"model": None}
        history, events = (run.lines.get(f"wandb-{kind}.jsonl", []) for kind in ("history", "events"))
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.told["displayName"],
            "summaryMetrics": json.dumps(run.summary),
            "config": run.told["config"],
            "tags": run.told.get("tags") or [],
            "notes": run.told.get("notes"),
            "logLineCount": len(run.lines.get("output.log", [])),
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {**_project(asked["project"]), "bucket": bucket}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        inserted = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], ServedRun(asked["name"]))
        run.told |= {key: value for key, value in asked.items() if value is not None}
        project = _project(run.told["project"])
        bucket = {"id": run.name, "name": run.name, "displayName": run.told["displayName"], "project": project}
        bucket |= {"historyLineCount": len(run.lines.get("wandb-history.jsonl", []))}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = asked["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{run}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        wanted = asked["input"]
        self.artifacts[wanted["artifactCollectionName"]] = wanted
        artifact = {"id": wanted["artifactCollectionName"], "state": "PENDING"}
        return {"createArtifact": {"artifact": artifact | {"artifactSequence": {"latestArtifact": None}}}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        file = {"id": "1", **self._upload(asked["artifactID"], asked["name"])}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        nodes = [
            {
                "storagePath": file["name"],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
                **self._upload(file["artifactID"], file["name"]),
            }
            for file in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = asked["artifactID"]
        self.artifacts[name]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": name, "digest": self.artifacts[name]["digest"]}}}

    def _upload(self, *names: str) -> dict[str, Any]:
        return {"uploadUrl": "/".join([self.url, "artifacts", *names]), "uploadHeaders": []}

    def _stream(self, run: ServedRun, chunk: dict[str, Any]) -> None:
        for name, part in (chunk.get("files") or {}).items():
            lines = run.lines.setdefault(name, [])
            lines[part["offset"] :] = part["content"]
        run.is_preempting = chunk.get("preempting", run.is_preempting)
        if chunk.get("complete"):
            code = chunk.get("exitcode")
            was_preempted, run.is_preempting = run.is_preempting, False
            run.ends.append("finished" if code == 0 else "preempted" if was_preempted else "failed")


def _nothing(_: dict[str, Any]) -> dict[str, Any]:
    return {}


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


@contextmanager
def serving() -> Iterator[Service]:
    """A server on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = json.dumps(service.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST  # noqa: N815

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that was killed is no error of ours."""

    server = Server(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def login(monkeypatch: Any, service: Service) -> None:
    """Make this user one of that server."""
    monkeypatch.setenv("WANDB_BASE_URL", service.url)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
