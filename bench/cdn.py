"""Random weights with their manifest, on an nginx that is a CDN, one that limits each connection, and a hub."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.hub import COMMIT, REPOSITORY, describe
from bench.processes import cpu_s_of, family
from lavatube.weights.manifest import FILE_NAME, Manifest, build_manifest

MIB = 1024 * 1024
SHARDS = 4
CHUNK_MIB = 16


@dataclass(frozen=True, slots=True)
class Cdn:
    """A server that runs; `names` are the files, of which `sha256` has the digests."""

    root: str
    folder: Path
    names: tuple[str, ...]
    sha256: dict[str, str]
    pid: int
    secure: str
    """The root of the same files over TLS, each connection at its limit; `certificate` is its authority."""
    certificate: Path

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / "www" / name).stat().st_size for name in self.names)

    @property
    def free(self) -> str:
        return f"{self.root}/free"

    @property
    def limited(self) -> str:
        """The same files, each connection at its limit."""
        return f"{self.root}/limited"

    def cpu_s(self) -> float:
        """What serving has cost so far."""
        return sum(cpu_s_of(pid) for pid in family(self.pid))

    def sent_bytes(self) -> int:
        """What has gone out since `forget_sent`, as far as the server has noted it."""
        return sum(int(line) for line in (self.folder / "access.log").read_text().split())

    def forget_sent(self) -> None:
        os.truncate(self.folder / "access.log", 0)


@contextmanager
def serve_weights(folder: Path, size_mib: int, limit_mib_s: int) -> Iterator[Cdn]:
    """Write weights into `folder` and serve them. `BENCH_NGINX` is the server's program."""
    files = folder / "www"
    files.mkdir()
    folder.chmod(0o755)
    for shard in range(SHARDS):
        path = files / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        with path.open("wb") as file:
            for _ in range(size_mib // SHARDS):
                file.write(os.urandom(MIB))
        os.utime(path, (shard, shard))  # nginx makes the ETag of it, by which the hub's library keeps files
    manifest = build_manifest(files, "bench", chunk_bytes=CHUNK_MIB * MIB)
    (files / FILE_NAME).write_text(manifest.to_json())
    names = tuple(file.path for file in manifest.files)
    port = random.randrange(20000, 60000)
    certificate = _certify(folder)
    (folder / "nginx.conf").write_text(_configuration(folder, files, port, manifest, limit_mib_s))
    server = subprocess.Popen(
        [os.environ.get("BENCH_NGINX", "nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    )
    try:
        time.sleep(1.0)
        assert server.poll() is None, "nginx did not start"
        sha256 = {file.path: file.sha256 for file in manifest.files}
        secure = f"https://127.0.0.1:{port + 1}/limited"
        yield Cdn(f"http://127.0.0.1:{port}", folder, names, sha256, server.pid, secure, certificate)
    finally:
        server.terminate()
        server.wait()


def _certify(folder: Path) -> Path:
    """One that only those who are told of it trust."""
    certificate = folder / "cert.pem"
    subject = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", folder / "key.pem", "-out", certificate]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True)
    return certificate


def _configuration(folder: Path, files: Path, port: int, manifest: Manifest, limit_mib_s: int) -> str:
    answers = "".join(
        f"    location {path} {{ default_type application/json; return 200 '{answer}'; }}\n"
        for path, answer in describe(manifest).items()
    )
    return f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 2; user root;
events {{ worker_connections 256; }}
http {{
  log_format sent '$body_bytes_sent'; access_log {folder}/access.log sent; sendfile on; tcp_nopush on;
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{port + 1} ssl;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location /free/ {{ alias {files}/; }}
    location /limited/ {{ alias {files}/; limit_rate {limit_mib_s}m; }}
{answers}    location ~ ^/{REPOSITORY}/resolve/[^/]+/(.*)$ {{ alias {files}/$1; add_header X-Repo-Commit {COMMIT}; }}
  }}
}}"""
