"""Readers of what a run, a download or a command line gives: sound ones to damage."""

import io
import json
import pathlib
import shutil
import tarfile
import tempfile
import zipfile

import numpy as np

from tests.fuzz.harness import Reader, allow_errors, of_folder


def overrides() -> Reader:
    """`--config.key=value` on the command line."""
    from v2l_jax import experiment, options

    lines = [f"--config.{path}={one.default}" for path, one in experiment.known().items()]

    def read(content: bytes, folder: pathlib.Path) -> None:
        _, pairs = experiment.split_overrides([content.decode("utf-8", "replace")])
        for dotted, text in pairs:
            known = experiment.known()[options.known_path(dotted, experiment.known())]
            known.rule.allows(options.parse(text, known))

    return Reader([line.encode() for line in lines], read)


def workdir() -> Reader:
    """JSON files, logs and arrays of a run's folder."""
    from v2l_jax.metrics.results import Result, read_results, write_results
    from v2l_jax.run import workdir as workdirs
    from v2l_jax.run.tokens import read_tokens
    from v2l_jax.training.checksums import CorruptFolderError, verify_checksums
    from v2l_jax.training.metric_log import read_metrics

    def npz(**arrays: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    with tempfile.TemporaryDirectory() as folder:
        row = Result("psnr_db", 18.5, 3, (17.0, 19.0), {"task": "reconstruction", "llm": "m"})
        write_results(f"{folder}/results.json", [row, row])
        results = pathlib.Path(folder, "results.json").read_bytes()
    asked = {"seed": 0, "jobs": ["train"], "data.name": "x"}
    files = {
        "config.json": b'{"seed": 0, "jobs": ["train"], "data": {"name": "x"}}',
        "environment.json": b'[{"job": "train", "began": "2026-11-28"}]',
        "timings.json": b'{"train": 3.5}', "training.json": b'{"steps": 3, "best_step": 2}',
        "codebook/training.json": b'{"steps": 3, "best_step": 2}', "results.json": results,
        "metrics.jsonl": b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n',
        "tokens/train.npz": npz(local_ids=np.zeros((2, 2, 2), np.int32), more=np.ones(1)),
        "checksums.json": b'{"a/b": "' + b"0" * 64 + b'"}',
    }  # fmt: skip

    def sums(folder: pathlib.Path) -> None:
        try:
            verify_checksums(folder)
        except CorruptFolderError:
            pass

    read = {
        "config": lambda folder: workdirs.prepare(folder, asked, lambda *_: False),
        "environment": workdirs.environments,
        "timings": lambda folder: workdirs._add_seconds(folder / "timings.json", "train", 1.0),
        "training": lambda folder: workdirs.is_from_this_training(folder / "codebook", folder),
        "codebook/": lambda folder: workdirs.is_from_this_training(folder / "codebook", folder),
        "results": lambda folder: read_results(folder / "results.json"),
        "metrics": lambda folder: read_metrics(folder / "metrics.jsonl"),
        "tokens/": lambda folder: read_tokens(folder, "train"),
        "checksums": sums,
    }
    return of_folder(files, read, {"a/b": b"x"})


def codebooks() -> Reader:
    """Codebooks, visual vocabularies, connectors and the state of k-means."""
    from v2l_jax.codebook import kmeans
    from v2l_jax.codebook.codebook import Codebook
    from v2l_jax.codebook.visual_vocabulary import VisualVocabulary
    from v2l_jax.llm.connector import load_connector, save_connector

    square = np.eye(3, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        Codebook(square, ("a", "b", "c"), ((1,), (2, 3), (4,)), "tower", "llm").save(place / "book")
        VisualVocabulary(square, square[0], square, True, {"layer": 3}, {"used": 1.0}).save(
            place / "visual"
        )
        save_connector(place / "connector", {"kernel": square, "bias": square[0]})
        kmeans._Run(made_for="x", centres=square).write(place / "kmeans.npz")
        files = {path.name: path.read_bytes() for path in place.iterdir()}

    loaders = {
        "book": Codebook.load, "visual": VisualVocabulary.load, "connector": load_connector,
        "kmeans.npz": kmeans._Run.read,
    }  # fmt: skip
    read = {
        name: lambda folder, name=name, load=load: load(folder / name)
        for name, load in loaders.items()
    }
    return of_folder(files, read, {})


def released() -> Reader:
    """config.json of a released tokenizer; its other files stand under its digests."""
    import jax

    from v2l_jax.codebook.codebook import Codebook
    from v2l_jax.tokenizers import V2LTokenizer, load_tokenizer, save_tokenizer
    from v2l_jax.tokenizers.reference import v2l_shapes

    sizes = {"channels": 32, "channel_multipliers": (1,), "num_res_blocks": 1, "z_channels": 4}
    words = {"word_dim": 4, "num_local_words": 5, "num_global_words": 3}
    model = V2LTokenizer(**sizes, **words, attn_resolutions=(), resolution=8)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), v2l_shapes(model))

    def book(count: int) -> Codebook:
        texts, ids = tuple(map(str, range(count))), tuple((i,) for i in range(count))
        return Codebook(np.ones((count, 4), np.float32), texts, ids, "tower", "llm")

    with tempfile.TemporaryDirectory() as folder:
        facts = {"image_size": 8, "global_tokens": 1, "name": "tiny"}
        save_tokenizer(folder, model, params, book(5), book(3), **facts)
        files = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
    damaged = {"config.json": files.pop("config.json")}
    return of_folder(damaged, {"": load_tokenizer}, files)


def archives() -> Reader:
    """Wheels, npm's and Debian's packages."""
    from v2l_jax.assets.archives import extract

    def tar(**files: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def wheel(**files: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(f"package/{name}", content)
        return buffer.getvalue()

    packed = tar(a=b"x" * 500, b=b"y")
    header = b"data.tar.gz     " + b"0".ljust(12) + b"0".ljust(12) + b"100644".ljust(8)
    deb = b"!<arch>\n" + header + str(len(packed)).encode().ljust(10) + b"`\n" + packed
    nested = wheel(**{"in.zip": wheel(a=b"inner")})

    def read(content: bytes, folder: pathlib.Path) -> None:
        kind = "p.whl" if content[:2] == b"PK" else "p.deb" if content[:1] == b"!" else "p.tgz"
        (folder / kind).write_bytes(content)
        for member in ("package/", "package/in.zip!package/") if kind == "p.whl" else ("",):
            out = folder / "out"
            try:
                allow_errors(lambda: extract(folder / kind, member, (), out, 1 << 20))
            finally:
                shutil.rmtree(out, ignore_errors=True)

    return Reader([wheel(a=b"x" * 500, b=b"y"), nested, packed, deb], read)


def index_pages() -> Reader:
    """Pages of a package index, HTML and JSON."""
    import contextlib
    import dataclasses
    import email.message
    import ssl

    from v2l_jax.assets import package_index, registry

    asset = next(a for a in registry.ASSETS.values() if a.package_file.endswith(".whl"))
    page = f'<a href="../x/{asset.package_file}#sha256=0">x</a><a href="b.whl">b</a>'
    pages = json.dumps({"files": [{"url": "https://h/b.whl"}, {"url": f"/{asset.package_file}"}]})

    @dataclasses.dataclass
    class Answer:
        content: bytes

        @property
        def headers(self) -> email.message.Message:
            found = email.message.Message()
            kind = "application/json" if self.content[:1] == b"{" else "text/html"
            found["Content-Type"] = kind
            return found

        def read(self) -> bytes:
            return self.content

        def geturl(self) -> str:
            return "https://h/simple/x/"

    context = ssl.create_default_context()

    def read(content: bytes, folder: pathlib.Path) -> None:
        opened = package_index._open
        package_index._open = lambda *_, **__: contextlib.nullcontext(Answer(content))
        try:
            package_index._find("https://h/simple", asset, context)
        except ValueError:
            pass  # what the caller lists as tried
        finally:
            package_index._open = opened

    return Reader([page.encode(), pages.encode()], read)
