"""``push`` against a stand-in of the hub: what goes up, to whom it is visible, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import ModelCard

from tests.conftest import ROOT
from tests.test_cli import call
from textlora import storage
from textlora.exporting import export

TOKEN = "hf_this_is_a_secret_token"
CARD = "---\nlibrary_name: peft\ntags:\n- textlora\n---\n\n# Reviews\n\nA text classifier.\n"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP API as an upload needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        hub.seen.append((self.path, self.headers.get("Authorization")))
        if hub.status != 200:
            self.answer({"error": "You do not have the required access."}, hub.status)
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/user/name", "name": "user/name"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/user/name/preupload/"):
            files = [
                {"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/user/name.git/info/lfs/objects/batch":
            self.answer({"transfer": "basic", "objects": [self.upload(found) for found in json.loads(body)["objects"]]})
        elif self.path.startswith("/api/models/user/name/commit/"):
            hub.commits.append([json.loads(line) for line in body.splitlines()])
            self.answer({"commitUrl": f"http://{self.headers['Host']}/user/name/commit/abc", "commitOid": "a" * 40})
        else:
            self.answer({"error": self.path}, 404)

    def upload(self, found):
        return {**found, "actions": {"upload": {"href": f"http://{self.headers['Host']}/put/{found['oid']}"}}}

    def do_PUT(self):
        self.server.stored[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def answer(self, document, status=200):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def mode(path):
    return "lfs" if path.endswith((".safetensors", ".onnx")) else "regular"


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.created, server.commits, server.stored, server.status = [], [], [], {}, 200
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    if server.socket.fileno() >= 0:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def exported(toy_run, tmp_path_factory):
    ignored = shutil.ignore_patterns("checkpoints", "export", "exports.json")
    folder = shutil.copytree(toy_run.folder, tmp_path_factory.mktemp("push") / "run", ignore=ignored)
    (folder / storage.MODEL_CARD).write_text(CARD)
    export(folder)
    return folder


@pytest.fixture
def run(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "run")


def pushed(hub, *arguments, token=TOKEN):
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": "/no/such/home", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "textlora", "push", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip


def test_all_files_go_up_in_one_commit(run, hub):
    done = pushed(hub, run, "user/name", "--licence", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert (
        hub.created == [{"name": "name", "organization": "user", "private": True}]
        or hub.created[0]["visibility"] == "private"
    )
    assert len(hub.commits) == 1
    entries = {line["value"]["path"]: line for line in hub.commits[0] if line["key"] != "header"}
    assert sorted(entries) == [
        "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/textlora.json",
        "adapter/tokenizer.json", "adapter/tokenizer_config.json", "config.json", "model.safetensors", "textlora.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    weights = entries["model.safetensors"]["value"]
    assert hub.stored[weights["oid"]] == (run / "export" / "hf" / "model.safetensors").read_bytes()
    card = ModelCard(base64.b64decode(entries["README.md"]["value"]["content"]).decode())
    assert (card.data.license, card.data.library_name, card.data.tags) == ("apache-2.0", "transformers", ["textlora"])
    assert 'pipeline("text-classification", "user/name")' in card.text
    assert "| hf | 24 rows (test and validation) |" in card.text
    assert {authorization for path, authorization in hub.seen if path.startswith("/api/repos")} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr
    assert "/user/name/commit/abc (a new repository is private)" in done.stdout.replace("\n", "")


def test_a_refusal_names_no_secret(run, hub):
    hub.status = 403
    done = pushed(hub, run, "user/name", "--licence", "mit")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-2].startswith("error: The hub refuses user/name (403): ")
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.commits == []


def test_without_a_token_nothing_is_asked(run, hub):
    done = pushed(hub, run, "user/name", "--licence", "mit", token="")
    assert done.returncode == 4
    assert "error: There is no token for the hub." in done.stderr
    assert hub.seen == []


def test_a_hub_that_is_not_there_is_told(run, hub):
    hub.shutdown()
    hub.server_close()
    done = pushed(hub, run, "user/name", "--licence", "mit")
    assert done.returncode == 4
    assert "error: The upload to the hub failed: " in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_dry_run_says_what_would_go_up(run):
    result = call("push", run, "user/name", "--licence", "mit", "--dry-run", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["push"]
    assert (found["repo"], found["licence"], found["private"], found["url"]) == ("user/name", "mit", True, "")
    sizes = dict(found["files"])
    assert sizes["model.safetensors"] == (run / "export" / "hf" / "model.safetensors").stat().st_size
    shown = call("push", run, "user/name", "--licence", "mit", "--public", "--dry-run").out
    assert f"model.safetensors  {sizes['model.safetensors']:,}" in " ".join(shown.split()).replace(" ", "  ") or (
        f"{sizes['model.safetensors']:,}" in shown
    )
    assert shown.splitlines()[-1].endswith("user/name would be public if it is new.")


def test_a_missing_export_is_made_first(run):
    shutil.rmtree(run / "export")
    result = call("push", run, "user/name", "--licence", "mit", "--dry-run", "--json")
    assert result.code == 0, result.err
    assert (run / "export" / "hf" / "model.safetensors").exists()


def test_all_that_is_missing_is_named(run):
    (run / storage.MODEL_CARD).unlink()
    result = call("push", run, "name", "--licence", "My Licence")
    assert result.code == 2
    assert result.err == (
        "error: Cannot push:\n"
        "  - 'name' is no name of a repository: expected user/name.\n"
        f"  - there is no model card ({run / 'model_card.md'}): run `textlora report {run}` first.\n"
        "  - 'My Licence' is no licence as the hub writes it: expected for instance apache-2.0 or mit.\n"
    )


def test_a_licence_is_needed_and_the_card_may_state_it(run):
    result = call("push", run, "user/name", "--dry-run")
    assert result.code == 2
    assert "there is no licence, and nobody could use the model: give one, as --licence apache-2.0." in result.err
    (run / storage.MODEL_CARD).write_text(CARD.replace("tags:", "license: mit\ntags:"))
    assert "licence mit" in call("push", run, "user/name", "--dry-run").out


def test_no_file_names_a_folder_of_this_machine(exported, tiny_model):
    for file in (exported / "export" / "hf").iterdir():
        assert str(tiny_model.parent).encode() not in file.read_bytes(), file.name
