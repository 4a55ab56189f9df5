"""A Hub in this process: the few calls of its API that pushing and loading make, on the loopback address alone.

It keeps whole commits. `requests` has (method, path) of everything that came; `lose` makes it drop a connection once.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from transformers.utils import hub as transformers_hub

TOKEN, READ_ONLY = "hf_may_write", "hf_may_read"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits are in the order in which they came: (hash, message, files)."""

    private: bool = False
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> str:
        content = json.dumps([len(self.commits), message, sorted((n, git_hash(c)) for n, c in files.items())])
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits.append((oid, message, files))
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision]
        return next((oid for oid, *_ in self.commits if oid == revision), None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        oid = self.resolve(revision)
        return next(files for known, _, files in self.commits if known == oid)


class FakeHub(ThreadingHTTPServer):
    """Use as a context manager; `url` is its address.

    Attributes:
        repositories: by `owner/name`.
        large: files with such endings go through LFS, as weights do; none of them where it is empty.
        requests: (method, path) of all that came.
        lose: part of a path; the connection of the next such request is dropped.
    """

    daemon_threads = True

    def __init__(self, large: tuple[str, ...] = (".safetensors",)):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.large, self.lose = large, ""
        self.requests: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> "FakeHub":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home: Any, token: str | None = TOKEN) -> dict[str, str]:
        """What a process needs to take this for the Hub."""
        variables = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        return {**variables, **({"HF_TOKEN": token} if token else {})}

    def create(self, name: str, private: bool = False) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return repository


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    # ------------------------------------------------------------------ answers

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, error: str, code: str = "") -> None:
        headers = {"X-Error-Message": error, **({"X-Error-Code": code} if code else {})}
        self.answer({"error": error}, status, headers)

    # ------------------------------------------------------------------ requests

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.read_chunks() if chunked else self.rfile.read(length)
        self.server.requests.append((self.command, path))
        if self.server.lose and self.server.lose in path:
            self.server.lose = ""
            self.close_connection = True
            self.connection.close()
            return
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                method(self, body, **{key: text for key, text in match.groupdict().items() if text is not None})
                return
        self.refuse(404, f"the fake Hub does not know {self.command} {path}")

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def read_chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def may_write(self) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token == READ_ONLY:
            self.refuse(403, "You have read access but not the required permissions for this operation")
        elif token != TOKEN:
            self.refuse(401, "Invalid credentials in Authorization header")
        return token == TOKEN

    def repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None:
            self.refuse(404, "Repository not found", "RepoNotFound")
        return found

    # ------------------------------------------------------------------ the API

    def create(self, body: bytes) -> None:
        if not self.may_write():
            return
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        address = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
        if name in self.server.repositories:
            self.answer({**address, "error": "You already created this model repo"}, 409)
            return
        self.server.create(name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self.answer(address)

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if self.may_write() and (repository := self.repository(name)):
            if branch in repository.branches:
                self.refuse(409, "Reference already exists")
                return
            repository.branches[branch] = repository.branches["main"]
            self.answer({}, 201)

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        if repository := self.repository(name):
            oid = repository.resolve(revision)
            if oid is None:
                self.refuse(404, "Invalid rev id", "RevisionNotFound")
                return
            siblings = [{"rfilename": path} for path in sorted(repository.files(oid))]
            self.answer({"id": name, "modelId": name, "private": repository.private, "sha": oid, "siblings": siblings})

    def tree(self, _: bytes, name: str, revision: str, folder: str = "") -> None:
        if repository := self.repository(name):
            if repository.resolve(revision) is None:
                self.refuse(404, "Invalid rev id", "RevisionNotFound")
                return
            files = {n: c for n, c in repository.files(revision).items() if n.startswith(folder)}
            if folder and not files:
                self.refuse(404, "Entry not found", "EntryNotFound")
                return
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                for path, content in sorted(files.items())
            ]
            self.answer(entries)

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        if not text.startswith("---\n"):
            self.answer({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
            return
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if not self.may_write() or not (repository := self.repository(name)):
            return
        known = repository.files(revision)
        files = []
        for entry in json.loads(body)["files"]:
            path = entry["path"]
            large = path.endswith(self.server.large) if self.server.large else False
            oid = None
            if path in known:
                oid = hashlib.sha256(known[path]).hexdigest() if large else git_hash(known[path])
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, body: bytes, **_: str) -> None:
        if not self.may_write():
            return
        objects = []
        for entry in json.loads(body)["objects"]:
            if entry["oid"] not in self.server.objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}", "header": {}}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.refuse(400, "the content is not what its hash says")
            return
        self.server.objects[oid] = body
        self.answer({})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if not self.may_write() or not (repository := self.repository(name)):
            return
        files, message = dict(repository.files(revision)), ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(revision, message, files)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def resolve(self, _: bytes, name: str, revision: str, file: str) -> None:
        if not (repository := self.repository(name)):
            return
        oid = repository.resolve(revision)
        if oid is None:
            self.refuse(404, "Invalid rev id", "RevisionNotFound")
            return
        content = repository.files(oid).get(file)
        if content is None:
            self.answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
            return
        self.answer(content, headers={"X-Repo-Commit": oid, "ETag": f'"{git_hash(content)}"'})


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = (
    (r"POST /api/repos/create", Handler.create),
    (rf"POST /api/models/{NAME}/branch/(?P<branch>.+)", Handler.branch),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/(?P<revision>.+)", Handler.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.put),
    (rf"GET /api/models/{NAME}", Handler.info),
    (rf"GET /api/models/{NAME}/revision/(?P<revision>.+)", Handler.info),
    (rf"GET /api/models/{NAME}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    (rf"(?:GET|HEAD) /{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Handler.resolve),
)


@contextmanager
def hub_of_this_process(tmp_path: Any, *, xet: bool = False, large: tuple[str, ...] = (".safetensors",)) -> Any:
    """A Hub that huggingface_hub and transformers take for theirs in this process, with a token that may write.

    Args:
        xet: leave hf_xet on, which uploads in several commits; nothing may be large then, for the fake has no such
            storage.
    """
    values = {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }
    with FakeHub(large) as hub, pytest.MonkeyPatch.context() as patch:
        values.update(
            ENDPOINT=hub.url, HUGGINGFACE_CO_URL_TEMPLATE=f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        for name, value in values.items():
            patch.setattr(constants, name, value)
        patch.setattr(transformers_hub, "_hf_api", None, raising=False)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield hub
