"""Downloads, from a hub on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from venhancer.errors import DeviceError, WeightsError
from venhancer.weights import hub

CONTENT = b"weights " * 1000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The server's promised and sent files, and the requested paths."""

    promised: bytes = CONTENT
    body: bytes = CONTENT
    requests: list[str] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub_state = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(hub_state.promised)

            def do_GET(self) -> None:
                self.answer(hub_state.body)
                self.wfile.write(hub_state.body)

            def answer(self, content: bytes) -> None:
                hub_state.requests.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(hub_state.promised).hexdigest()}"')
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a hub at HF_ENDPOINT."""
    state = Hub()
    http = ThreadingHTTPServer(("127.0.0.1", 0), state.handler())
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{http.server_address[1]}")
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub unreachable, and known to be so, so that nothing retries."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_named_source_is_downloaded_once(server: Hub, tmp_path: Path) -> None:
    """The right file of the right repository arrives, and is not requested again."""
    path = hub.fetch("v2", tmp_path)
    asked = len(server.requests)

    assert path.read_bytes() == CONTENT
    assert "/jwhejwhe/VEnhancer/resolve/main/venhancer_v2.pt" in server.requests
    assert hub.fetch("v2", tmp_path) == path
    assert len(server.requests) == asked


def test_an_unchanged_file_is_not_hashed_again(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded size and time are proof enough."""
    path = hub.fetch("v2", tmp_path)
    monkeypatch.setattr(hub, "hash_file", lambda path: pytest.fail("hashed again"))

    assert hub.fetch("v2", tmp_path) == path


def test_a_body_cut_short_is_refused(server: Hub, tmp_path: Path) -> None:
    """A download that ends early leaves no file, and the error says where to put it."""
    server.body = CONTENT[:100]

    with pytest.raises(WeightsError, match=r"cannot download venhancer_paper\.pt"):
        hub.fetch("paper", tmp_path)
    assert not list(tmp_path.rglob("snapshots/**/venhancer_paper.pt"))

    server.body = CONTENT
    assert hub.fetch("paper", tmp_path).read_bytes() == CONTENT


def test_other_bytes_than_the_hub_promised_are_refused(server: Hub, tmp_path: Path) -> None:
    """A body of the right length but another hash than the hub's is not used."""
    server.body = b"x" * len(CONTENT)

    with pytest.raises(WeightsError, match="SHA-256"):
        hub.fetch("v2", tmp_path)


def test_a_file_that_changed_is_refused_with_both_hashes(server: Hub, tmp_path: Path) -> None:
    """The error has both hashes of the cached file and the remedy."""
    path = hub.fetch("v2", tmp_path)
    path.resolve().write_bytes(b"other")
    found, expected = (hashlib.sha256(c).hexdigest() for c in (b"other", CONTENT))

    with pytest.raises(WeightsError, match=f"{found}, not {expected}: delete it"):
        hub.fetch("v2", tmp_path)


def test_touching_a_file_does_no_harm(server: Hub, tmp_path: Path) -> None:
    """Another time stamp with the same bytes is accepted."""
    path = hub.fetch("v2", tmp_path)
    os.utime(path, (1, 1))

    assert hub.fetch("v2", tmp_path) == path


def test_offline_the_error_says_where_to_put_the_file(nowhere: None, tmp_path: Path) -> None:
    """One line has the exact path; a file put there is then found."""
    place = tmp_path / "models--jwhejwhe--VEnhancer" / "venhancer_v2.pt"

    with pytest.raises(WeightsError, match="--weights PATH") as caught:
        hub.fetch("v2", tmp_path)
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)

    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(CONTENT)
    assert hub.fetch("v2", tmp_path) == place


def test_offline_a_downloaded_file_is_enough(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was fetched once needs no network."""
    path = hub.fetch("v2", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    assert hub.fetch("v2", tmp_path) == path


def test_a_network_that_is_not_to_be_had_names_the_alternatives(
    nowhere: None, tmp_path: Path
) -> None:
    """For neither a path nor a hub name, the error has the variable and what it may hold."""
    for source in (str(tmp_path / "absent"), "someone/something"):
        with pytest.raises(WeightsError, match=r"VENHANCER_VAE.*\.safetensors.*hub name"):
            hub.locate("VAE", source, "VENHANCER_VAE", ["vae/*"])


def test_a_missing_package_names_the_command() -> None:
    """The error for a package of the released model has its pip command."""
    with pytest.raises(DeviceError, match=r"pip install venhancer\[released\]"):
        hub.require("no_such_package")


def test_the_cache_is_found_in_a_fresh_process(tmp_path: Path) -> None:
    """No other code needs to have imported the hub's modules."""
    code = "from venhancer.weights import hub\nprint(hub._entry(hub.SOURCES['v2'], None))"
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.startswith(str(tmp_path))
