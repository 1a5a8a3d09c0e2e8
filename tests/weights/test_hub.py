"""Downloads, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from vitnext.errors import InputError, WorkError
from vitnext.weights import hub

FILE = save({"weight": torch.arange(3000.0)})
GOOD = hashlib.sha256(FILE).hexdigest()
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """One answer for each repository; like the hub it names what is wrong in X-Error-Code."""

    def do_HEAD(self):
        _, owner, name, *rest = self.path.split("/")
        file = rest[-1]
        self.server.asked.append(f"{self.command} {owner}/{name} {file}")
        if name == "no-such":
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        if name == "private":
            return self.answer(401)
        if name == "unknown":  # a mirror that names no reason
            return self.answer(404)
        if name == "gated":
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        if name == "down":
            return self.answer(500)
        if name == "nothing" or (name == "old" and file == "model.safetensors"):
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = hashlib.sha256(b"other").hexdigest() if name == "wrong" else GOOD
        if name == "small":  # not in LFS: the hub has no SHA-256 of it
            etag = "1" * 40
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(FILE))}
        return self.answer(200, {**headers, "ETag": f'"{etag}"', "Content-Length": str(len(FILE))})

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(FILE[:1000] if "/truncated/" in self.path else FILE)

    def answer(self, status, headers=None):
        self.send_response(status)
        for key, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    use(monkeypatch, url, tmp_path / "cache")
    yield server
    server.shutdown()
    server.server_close()


def use(monkeypatch, url, cache):
    """What HF_ENDPOINT and HF_HUB_CACHE set when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def message(repository, kind):
    with pytest.raises((InputError, WorkError)) as caught:
        hub.fetch(repository)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_good_file_is_downloaded_once(server, capfd):
    assert hub.cached("timm/good") is None
    path = hub.fetch("timm/good")
    assert path.read_bytes() == FILE and path.name == "model.safetensors"
    asked = list(server.asked)
    assert "GET timm/good model.safetensors" in asked
    assert hub.fetch("timm/good") == hub.cached("timm/good") == path
    assert server.asked == asked  # from the cache, without a word to the network
    assert capfd.readouterr() == ("", "")


def test_a_repository_with_pytorchs_file_alone(server):
    path = hub.fetch("facebook/old")
    assert path.name == "pytorch_model.bin" and path.read_bytes() == FILE
    assert hub.fetch("facebook/old") == path
    assert hub.fetch("facebook/small").read_bytes() == FILE


def test_another_content_than_promised_is_removed(server, tmp_path):
    text = message("timm/wrong", WorkError)
    other = hashlib.sha256(b"other").hexdigest()
    assert text.startswith(f"timm/wrong is not what the hub promised (SHA-256 {GOOD[:12]}..., not {other[:12]}...)")
    assert "/timm/wrong/resolve/main/model.safetensors and put it at timm/wrong/model.safetensors" in text
    assert hub.cached("timm/wrong") is None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_truncated_file(server):
    monkey = message("timm/truncated", WorkError)
    assert monkey.startswith("timm/truncated could not be downloaded (")
    assert ": try again, or download http://127.0.0.1:" in monkey
    assert hub.cached("timm/truncated") is None


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (
            "no-such",
            InputError,
            "the hub has no timm/no-such, or shows it to others alone (HTTP 401): compare the name",
        ),
        (
            "private",
            InputError,
            "the hub has no timm/private, or shows it to others alone (HTTP 401): compare the name",
        ),
        (
            "unknown",
            InputError,
            "the hub has no timm/unknown, or shows it to others alone (HTTP 404): compare the name",
        ),
        ("gated", InputError, "timm/gated is for those alone who accept its licence: do that at http://127.0.0.1:"),
        ("nothing", InputError, "/timm/nothing has no model.safetensors or pytorch_model.bin: download its weights"),
        ("down", WorkError, "the hub answers HTTP 500 for timm/down: try again later, or download http://127.0.0.1:"),
    ],
)
def test_the_hub_refuses(server, name, kind, expected):
    assert expected in message(f"timm/{name}", kind)


def test_unreachable(tmp_path, monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9", tmp_path)  # the discard port: nobody listens
    text = message("timm/good", WorkError)
    assert text.startswith("timm/good could not be downloaded (")
    assert text.endswith(
        ": try again, or download http://127.0.0.1:9/timm/good/resolve/main/model.safetensors and put it at "
        "timm/good/model.safetensors in this folder, or give the path of another"
    )


def test_offline(server, monkeypatch):
    path = hub.fetch("timm/good")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("timm/good") == path
    text = message("timm/other", WorkError)
    assert text.startswith("timm/other is not in the cache and HF_HUB_OFFLINE is set: unset it, or download http://")


@pytest.mark.parametrize("name", ["convnext_tiny", "a/b/c", "timm/", "../x", "timm/a b"])
def test_what_is_no_name_on_the_hub(name):
    assert message(name, InputError) == f"{name}: no such file, and no name on the hub like timm/convnext_tiny.fb_in1k"


def test_the_variables_of_the_environment_are_respected(server, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    script = "from vitnext.weights import hub; print(hub.fetch('timm/good'))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.startswith(str(tmp_path / "elsewhere"))
