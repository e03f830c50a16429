"""As much of Cloud Storage's JSON API as a reader needs, over the files of a folder: `FOLDER/bucket/name`.

A process of its own, because Arrow's client holds Python's lock while it waits for some of its answers. A bucket whose
name starts with “forbidden” answers 403.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serve_gcs(folder: Path) -> Iterator[str]:
    """Serve a folder until the block ends; gives the address."""
    arguments = [sys.executable, "-m", "tests.contract.gcs_server", str(folder)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder

    def content(self, path: str) -> bytes | None:
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def handle_error(self, *_: object) -> None:
        """Say nothing: the client drops connections that it has had enough of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        # /storage/v1/b/BUCKET/o/NAME
        parts = [unquote(part) for part in address.path.split("/")]
        bucket, name = parts[4], "/".join(parts[6:])
        content = self.server.content(f"{bucket}/{name}") if name else None
        if bucket.startswith("forbidden"):
            self._json(403, {"error": {"code": 403, "message": "Access denied."}})
        elif not name:
            self._json(200, self._listing(bucket, query))
        elif content is None or query.get("generation", "") not in {"", str(self._generation(bucket, name))}:
            self._json(404, {"error": {"code": 404, "message": "Not Found"}})
        elif query.get("alt") == "media":
            self._media(content, self._generation(bucket, name))
        else:
            self._json(200, self._metadata(bucket, name, content))

    def _listing(self, bucket: str, query: dict[str, str]) -> dict[str, object]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for file in sorted((self.server.folder / bucket).rglob("*")):
            name = file.relative_to(self.server.folder / bucket).as_posix()
            if file.is_file() and name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    items.append(self._metadata(bucket, name, file.read_bytes()))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _generation(self, bucket: str, name: str) -> int:
        """Return the number that an object gets with each of its contents."""
        return (self.server.folder / bucket / name).stat().st_mtime_ns

    def _metadata(self, bucket: str, name: str, content: bytes) -> dict[str, object]:
        generation = self._generation(bucket, name)
        written = datetime.fromtimestamp(generation / 1e9, UTC).isoformat().replace("+00:00", "Z")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "crc32c": base64.b64encode(struct.pack(">I", google_crc32c.value(content))).decode(),
            "updated": written,
            "timeCreated": written,
        }

    def _media(self, content: bytes, generation: int) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        start, end = 0, len(content)
        if wanted:
            first, _, last = wanted.partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
        part = content[start:end]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("x-goog-generation", str(generation))
        self.end_headers()
        self.wfile.write(part)

    def _json(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    with _Server(Path(sys.argv[1])) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
