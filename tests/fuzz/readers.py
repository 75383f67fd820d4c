"""Every reader of outside files: sound files to damage, and how one is read to the end."""

import dataclasses
import io
import json
import pathlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import safetensors.numpy
from PIL import Image

from tests.llm import llama_folder


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
      seeds: sound files.
      read: reads bytes, given a folder to write them to, as deep as a job would.
    """

    seeds: list[bytes]
    read: Callable[[bytes, pathlib.Path], None]


def _file(name: str, read: Callable[[pathlib.Path], object]) -> Callable:
    def through_a_file(content: bytes, folder: pathlib.Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return through_a_file


def _json(*values: object) -> list[bytes]:
    return [json.dumps(value, indent=indent).encode() for value in values for indent in (None, 1)]


def images() -> Reader:
    """Pictures of every kind that Pillow writes."""
    from v2l_jax.data.images import decode_image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    kinds = "PNG JPEG GIF BMP TIFF WEBP AVIF JPEG2000 TGA PPM ICO PCX SGI DDS ICNS QOI".split()
    seeds = []
    for kind in kinds:
        for image in (picture, picture.convert("L"), picture.convert("P"), picture.convert("I;16")):
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue
            seeds.append(buffer.getvalue())
    return Reader(seeds, lambda content, folder: _discard(decode_image(content)))


def csv() -> Reader:
    """Episode files."""
    from v2l_jax.data.episodes import read_class_names, read_episode_csv

    text = "warm/0.png,cold/1.png,cold/13.png\nwarm/2.png,cold/3.png,warm/14.png\n"

    def read(path: pathlib.Path) -> None:
        read_class_names(path)
        read_episode_csv(path, "photos")

    return Reader([text.encode(), text.encode("utf-16"), b"a\tb\n"], _file("a.csv", read))


def captions() -> Reader:
    """COCO captions."""
    from v2l_jax.data.captions import read_coco_captions

    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "."}],
    }
    return Reader(_json(coco), _file("a.json", lambda path: read_coco_captions(path, "photos")))


def questions() -> Reader:
    """VQA v2, questions and annotations alike."""
    from v2l_jax.data.questions import read_vqa_v2

    asked = {
        "data_subtype": "val2014",
        "questions": [{"question_id": 1, "image_id": 42, "question": "what?"}],
    }
    answered = {
        "annotations": [
            {"question_id": 1, "answer_type": "other", "question_type": "what"}
            | {"answers": [{"answer": "red"}]}
        ]
    }

    def read(content: bytes, folder: pathlib.Path) -> None:
        image = folder / "COCO_val2014_000000000042.jpg"
        if not image.exists():
            Image.new("RGB", (2, 2)).save(image)
        damaged = folder / "damaged.json"
        damaged.write_bytes(content)
        sound = {"asked": asked, "answered": answered}
        for name, value in sound.items():
            if not (folder / name).exists():
                (folder / name).write_text(json.dumps(value))
        if b"questions" in content:
            read_vqa_v2(damaged, folder / "answered", folder)
        read_vqa_v2(folder / "asked", damaged, folder)

    return Reader(_json(asked, answered), read)


def _gguf_seeds() -> list[bytes]:
    import gguf

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "▁a"]
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for model in ("llama", "gpt2"):
            writer = gguf.GGUFWriter(f"{folder}/m.gguf", "llama")
            for key in ("block_count", "attention.head_count", "attention.head_count_kv"):
                writer.add_uint32(f"llama.{key}", 1)
            for key in ("context_length", "embedding_length", "feed_forward_length"):
                writer.add_uint32(f"llama.{key}", 32)
            writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            writer.add_tokenizer_model(model)
            if model == "llama":
                writer.add_token_list(tokens)
                writer.add_token_scores([-float(i) for i in range(len(tokens))])
                writer.add_token_types([2, 3, 3, *[6] * 256, 1, 1, 1])
            else:
                writer.add_token_list(["a", "b", "ab", "</s>"])
                writer.add_token_merges(["a b"])
                writer.add_tokenizer_pre("gpt-2")
            writer.add_bos_token_id(1)
            writer.add_eos_token_id(2)
            writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
            packed = gguf.quants.quantize(
                np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0
            )
            writer.add_tensor(
                "blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0
            )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            seeds.append(pathlib.Path(folder, "m.gguf").read_bytes())
    return seeds


def gguf() -> Reader:
    """GGUF models: metadata, tensors, sizes and tokenizer."""
    from v2l_jax.formats.gguf_files import read_gguf
    from v2l_jax.llm.llama_config import config_from_gguf
    from v2l_jax.llm.text_tokenizers import load_text_tokenizer

    def read(path: pathlib.Path) -> None:
        model = read_gguf(path)
        _touch(model.tensors)
        for deeper in (
            lambda: config_from_gguf(model.metadata, model.tensors),
            lambda: load_text_tokenizer(path).encode("a b"),
        ):
            _allow_errors(deeper)

    return Reader(_gguf_seeds(), _file("m.gguf", read))


def safetensors_files() -> Reader:
    """safetensors, and an index of shards."""
    from v2l_jax.formats.safetensors_files import read_safetensors

    small = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.int8)}
    whole = safetensors.numpy.save(small)
    index = json.dumps({"weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}).encode()

    def read(content: bytes, folder: pathlib.Path) -> None:
        if not (folder / "s.safetensors").exists():
            (folder / "s.safetensors").write_bytes(whole)
        is_index = content.lstrip()[:1] == b"{"
        name = "m.safetensors.index.json" if is_index else "m.safetensors"
        (folder / name).write_bytes(content)
        _touch(read_safetensors(folder / name))

    return Reader([whole, index], read)


def torch_files() -> Reader:
    """PyTorch checkpoints: zip and legacy."""
    import torch

    from v2l_jax.formats.torch_files import read_torch

    tree = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(3, dtype=torch.bfloat16), "n": 1}
    seeds = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(tree, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    return Reader(seeds, _file("m.pth", lambda path: _touch(read_torch(path))))


def pickles() -> Reader:
    """Pickles of arrays and of a training script's options."""
    import argparse
    import collections

    from v2l_jax.formats.pickles import read_pickle

    tree = {
        "w": np.arange(6.0).reshape(2, 3),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
        "seen": collections.defaultdict(list, {"a": [1]}),
        "t": ("x", {1, 2}, b"y", None, 1 << 70),
    }
    seeds = [pickle.dumps(tree, protocol) for protocol in (0, 2, 3, 4, 5)]
    return Reader(seeds, lambda content, folder: _discard(read_pickle(content)))


def peft() -> Reader:
    """adapter_config.json beside sound tensors."""
    import jax

    from v2l_jax.llm.llama_config import config_from_huggingface
    from v2l_jax.llm.lora import Lora, init_adapters
    from v2l_jax.llm.peft_files import CONFIG_FILE, TENSOR_FILE, load_adapters, save_adapters

    sizes, lora = config_from_huggingface(llama_folder.CONFIG), Lora(rank=2)
    with tempfile.TemporaryDirectory() as folder:
        save_adapters(folder, init_adapters(jax.random.key(0), sizes, lora), lora, "base")
        config = pathlib.Path(folder, CONFIG_FILE).read_bytes()
        tensors = pathlib.Path(folder, TENSOR_FILE).read_bytes()

    def read(content: bytes, folder: pathlib.Path) -> None:
        if not (folder / TENSOR_FILE).exists():
            (folder / TENSOR_FILE).write_bytes(tensors)
        (folder / CONFIG_FILE).write_bytes(content)
        load_adapters(folder, sizes)

    pissa = json.dumps(json.loads(config) | {"init_lora_weights": "pissa"}).encode()
    return Reader([config, pissa], read)


def tokenizer_json() -> Reader:
    """tokenizer.json, byte-level and SentencePiece-like."""
    import tokenizers

    from v2l_jax.llm.text_tokenizers import load_text_tokenizer

    def make(decoder: object, pieces: list[str]) -> bytes:
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        pipeline = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")]))
        pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        pipeline.decoder = decoder
        pipeline.add_special_tokens(["</s>"])
        return pipeline.to_str().encode()

    pieces = ["</s>", "a", "b", "ab", "Ġ"]
    seeds = [make(tokenizers.decoders.ByteLevel(), pieces)]
    seeds.append(make(tokenizers.decoders.Metaspace(), pieces))

    def read(content: bytes, folder: pathlib.Path) -> None:
        if not (folder / "config.json").exists():
            (folder / "config.json").write_text('{"eos_token_id": 0}')
        (folder / "tokenizer.json").write_bytes(content)
        tokenizer = load_text_tokenizer(folder)
        tokenizer.decode(range(min(tokenizer.vocab_size, 100)))

    return Reader(seeds, read)


def sentencepiece_model() -> Reader:
    """tokenizer.model."""
    from sentencepiece import sentencepiece_model_pb2

    from v2l_jax.llm.text_tokenizers import load_text_tokenizer

    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.trainer_spec.model_type = 2
    model.normalizer_spec.remove_extra_whitespaces = False
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1), ("▁a", 1)):
        model.pieces.add(piece=piece, score=-1.0, type=kind)
    read = _file("tokenizer.model", lambda path: load_text_tokenizer(path.parent).encode("a a"))
    return Reader([model.SerializeToString()], read)


def model_configs() -> Reader:
    """config.json of language models, CLIP's settings beside its weights."""
    from v2l_jax.llm.llama_config import read_huggingface_config
    from v2l_jax.towers.clip_settings import settings_beside

    scaled = llama_folder.CONFIG | {
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip
    clip = {"model_type": "clip", "vision_config": {"num_attention_heads": 2}}
    images = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 16}}
    openclip = {
        "model_cfg": {"vision_cfg": {"width": 64}, "text_cfg": {"heads": 4}},
        "preprocess_cfg": {"mean": [0.5] * 3},
    }

    def read(content: bytes, folder: pathlib.Path) -> None:
        names = {"llm": "config.json", "a": "config.json", "b": "open_clip_config.json"}
        for place, name in (names | {"c": "preprocessor_config.json"}).items():
            (folder / place).mkdir(exist_ok=True)
            (folder / place / name).write_bytes(content)
        if not (folder / "c/config.json").exists():
            (folder / "c/config.json").write_text('{"model_type": "clip"}')
        _allow_errors(lambda: read_huggingface_config(folder / "llm"))
        for place in "abc":
            _allow_errors(lambda place=place: settings_beside(folder / place))

    seeds = _json(llama_folder.CONFIG, scaled, clip, images, openclip)
    return Reader(seeds, read)


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


def _discard(value: object) -> None:
    del value


def _touch(tensors: object) -> None:
    for value in tensors.values() if isinstance(tensors, Mapping) else ():
        if isinstance(value, np.ndarray):
            value.ravel()[: 1 << 16].tobytes()


def _allow_errors(action: Callable[[], object]) -> None:
    from v2l_jax.errors import V2LError

    try:
        action()
    except V2LError:
        pass


READERS: dict[str, Callable[[], Reader]] = {
    made.__name__: made
    for made in (
        images, csv, captions, questions, gguf, safetensors_files, torch_files, pickles, peft,
        tokenizer_json, sentencepiece_model, model_configs, overrides,
    )
}  # fmt: skip


class TooLong(BaseException):
    """No Exception, which a reader might take for a damaged file."""


def violations(
    reader: Reader, inputs: Iterator[bytes], folder: pathlib.Path, seconds: float = 5.0
) -> Iterator[tuple[bytes, str]]:
    """Reads every input; yields those that end in anything but success or the project's own error
    within the time given.
    """
    import signal
    import threading

    def too_long(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, too_long) if timed else None
    try:
        for content in inputs:
            what = ""
            try:
                if timed:
                    signal.setitimer(signal.ITIMER_REAL, seconds)
                what = _outcome(reader, content, folder)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except TooLong as error:
                what = f"TooLong: {error}"
            if what:
                yield content, what
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _outcome(reader: Reader, content: bytes, folder: pathlib.Path) -> str:
    """What went wrong, "" where nothing did."""
    from v2l_jax.errors import V2LError

    try:
        reader.read(content, folder)
    except V2LError as error:
        return f"more than one line: {str(error)!r}" if "\n" in str(error) else ""
    except (KeyboardInterrupt, TooLong):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        return f"{type(error).__name__}: {error}"
    return ""
