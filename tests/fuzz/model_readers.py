"""Readers of models' files: sound files to damage, and how one is read to the end."""

import io
import json
import pathlib
import pickle
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from tests.fuzz.harness import Reader, allow_errors, as_json, discard, of_file, of_folder, touch
from tests.llm import llama_folder


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
        touch(model.tensors)
        for deeper in (
            lambda: config_from_gguf(model.metadata, model.tensors),
            lambda: load_text_tokenizer(path).encode("a b"),
        ):
            allow_errors(deeper)

    return Reader(_gguf_seeds(), of_file("m.gguf", read))


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
        touch(read_safetensors(folder / name))

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
    return Reader(seeds, of_file("m.pth", lambda path: touch(read_torch(path))))


def pickles() -> Reader:
    """Pickles of arrays and of a training script's options."""
    import argparse
    import collections

    from v2l_jax.formats.pickles import read_pickle, read_pickled_arrays

    tree = {
        "w": np.arange(6.0).reshape(2, 3),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
        "seen": collections.defaultdict(list, {"a": [1]}),
        "t": ("x", {1, 2}, b"y", None, 1 << 70),
    }
    seeds = [pickle.dumps(tree, protocol) for protocol in (0, 2, 3, 4, 5)]

    def read(content: bytes, folder: pathlib.Path) -> None:
        (folder / "m.pkl").write_bytes(content)
        allow_errors(lambda: read_pickled_arrays(folder / "m.pkl", ("state", "params")))
        discard(read_pickle(content))

    state = {"state": argparse.Namespace(params={"w": np.ones(3, "f4")}, step=1), "n": {"a": 1}}
    return Reader([*seeds, pickle.dumps(state, 2), pickle.dumps(state, 5)], read)


def peft() -> Reader:
    """adapter_config.json and adapter_model.safetensors, with new rows."""
    import jax

    from v2l_jax.llm.llama_config import config_from_huggingface
    from v2l_jax.llm.lora import Lora, init_adapters
    from v2l_jax.llm.peft_files import (
        CONFIG_FILE,
        TENSOR_FILE,
        load_adapters,
        load_new_rows,
        save_adapters,
    )

    sizes, lora = config_from_huggingface(llama_folder.CONFIG), Lora(rank=2, targets=("q_proj",))
    rows = np.ones((2, sizes.hidden_size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        adapters = init_adapters(jax.random.key(0), sizes, lora)
        save_adapters(folder, adapters, lora, "base", rows, sizes.vocab_size)
        files = {
            name: pathlib.Path(folder, name).read_bytes() for name in (CONFIG_FILE, TENSOR_FILE)
        }

    def read(folder: pathlib.Path) -> None:
        allow_errors(lambda: load_new_rows(folder, sizes))
        load_adapters(folder, sizes)

    return of_folder(files, {"": read}, {})


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
    read = of_file("tokenizer.model", lambda path: load_text_tokenizer(path.parent).encode("a a"))
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
        allow_errors(lambda: read_huggingface_config(folder / "llm"))
        for place in "abc":
            allow_errors(lambda place=place: settings_beside(folder / place))

    windows = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4}
    windows |= {"layer_types": ["full_attention", "sliding_attention"], "torch_dtype": "float16"}
    linear = {"rope_scaling": {"type": "linear", "factor": 2.0}, "head_dim": 4}
    scaled_otherwise = llama_folder.CONFIG | linear
    windowed = llama_folder.CONFIG | windows
    seeds = as_json(llama_folder.CONFIG, scaled, scaled_otherwise, windowed, clip, images, openclip)
    return Reader(seeds, read)


def onnx() -> Reader:
    """A DINOv2 as ONNX, down to the tower's parameters."""
    from tests import tiny_onnx, tiny_vit
    from v2l_jax.formats.onnx_files import read_onnx
    from v2l_jax.towers.vit_weights import read_vit

    with tempfile.TemporaryDirectory() as folder:
        made = tiny_vit.write_dinov2(pathlib.Path(folder))
    half = tiny_onnx.tensor("w", np.ones(2, np.float16), 10)
    long = tiny_onnx.content(1, b"\2") + tiny_onnx.number(2, 7) + tiny_onnx.content(7, b"\1\2")
    small = tiny_onnx.model(tiny_onnx.content(5, half), tiny_onnx.content(5, long))

    def read(path: pathlib.Path) -> None:
        touch(read_onnx(path).tensors)
        if path.stat().st_size > 1000:
            read_vit(path)

    return Reader([tiny_onnx.dinov2(made), small], of_file("m.onnx", read))


def clip_tokenizer() -> Reader:
    """CLIP's vocabulary and merges, and its tokenizer.json."""
    from tests import tiny_models
    from v2l_jax.formats.tokenizer_files import check_ids
    from v2l_jax.towers.clip import load_text_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        place = tiny_models.write_clip(pathlib.Path(folder, "clip"))
        (place / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
        vocabulary = json.loads((place / "vocab.json").read_text())
        vocabulary |= {"ca": len(vocabulary), "cat</w>": len(vocabulary) + 1}
        (place / "vocab.json").write_text(json.dumps(vocabulary))
        rows = len(vocabulary)
        files = {name: (place / name).read_bytes() for name in ("vocab.json", "merges.txt")}
        whole = load_text_tokenizer(place, 16).to_str().encode()

    def read(folder: pathlib.Path) -> None:
        tokenizer = load_text_tokenizer(folder, 16)
        check_ids(tokenizer, rows, "clip")
        tokenizer.encode("a cat")

    files["alone/tokenizer.json"] = whole
    alone = lambda folder: read(folder / "alone")
    return of_folder(files, {"alone/": alone, "merges.txt": read, "vocab.json": read}, {})


def tower_configs() -> Reader:
    """Settings beside BERT, RoBERTa, sentence encoders and vision transformers."""
    from tests import tiny_models, tiny_vit
    from v2l_jax.towers.bert import load_sentence_encoder
    from v2l_jax.towers.roberta import load_masked_language_model
    from v2l_jax.towers.vit_weights import read_vit

    sizes = {
        "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300,
        "intermediate_size": 8, "max_position_embeddings": 16,
    }  # fmt: skip
    tokenizer = tiny_models.byte_level(280)
    tokenizer.add_special_tokens(["<mask>"])
    images = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    pooling = {"pooling_mode_mean_tokens": True}
    with tempfile.TemporaryDirectory() as folder:
        tiny_vit.write_dinov2(pathlib.Path(folder))
        vit = {
            name: pathlib.Path(folder, name).read_bytes()
            for name in ("config.json", "model.safetensors")
        }
    bert = safetensors.numpy.save(
        {name: np.ones(shape, np.float32) for name, shape in bert_shapes(sizes).items()}
    )
    files = {
        "vit/config.json": vit["config.json"],
        "vit/preprocessor_config.json": json.dumps(images).encode(),
        "bert/config.json": json.dumps({"model_type": "bert"} | sizes).encode(),
        "bert/1_Pooling/config.json": json.dumps(pooling).encode(),
        "bert/sentence_bert_config.json": b'{"max_seq_length": 8}',
        "roberta/config.json": json.dumps(
            {"model_type": "roberta", "pad_token_id": 1} | sizes
        ).encode(),
        "roberta/vocab.json": b'{"a": 0, "<mask>": 3}',
    }
    sound = {"vit/model.safetensors": vit["model.safetensors"], "bert/model.safetensors": bert}
    sound |= {"roberta/model.safetensors": bert, "bert/tokenizer.json": tokenizer.to_str().encode()}

    read = {
        "vit/": lambda folder: read_vit(folder / "vit"),
        "bert/": lambda folder: load_sentence_encoder(folder / "bert"),
        "roberta/": lambda folder: load_masked_language_model(folder / "roberta"),
    }
    return of_folder(files, read, sound)


def bert_shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of a BERT's tensors by Hugging Face's names."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (sizes["vocab_size"], width),
        "embeddings.position_embeddings.weight": (sizes["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    for i in range(sizes["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        linear = [(f"attention.self.{name}", width, width) for name in ("query", "key", "value")]
        linear += [("attention.output.dense", width, width), ("intermediate.dense", inner, width)]
        for name, out, given in (*linear, ("output.dense", width, inner)):
            shapes |= {f"{layer}{name}.weight": (out, given), f"{layer}{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
    return shapes | {f"embeddings.LayerNorm.{leaf}": (width,) for leaf in ("weight", "bias")}


def _build(content: bytes, builders: Sequence[Callable[[Any], Any]], most: int) -> None:
    """Builds the network whose tensors a JSON list names, if they have less than `most` numbers."""
    from v2l_jax.formats.checked_tensors import arrays_by_name

    try:
        kind, *rows = json.loads(content)
        arrays = {
            str(name): np.broadcast_to(np.zeros((), np.dtype(str(dtype))), tuple(shape))
            for name, dtype, shape in rows
        }
        chosen = builders[int(kind) % len(builders)]
    except (ValueError, TypeError, RecursionError, OverflowError, SyntaxError):
        return  # no list of tensors
    if sum(x.size for x in arrays.values()) < most:
        chosen(arrays_by_name(arrays, "m"))


def networks() -> Reader:
    """Names, types and shapes of tensors of every network that is built from a foreign file; an
    input is a JSON list of these.
    """
    from tests import tiny_models, tiny_vit
    from v2l_jax.formats.checked_tensors import CheckedTensors, fitting_together
    from v2l_jax.llm import llama_weights
    from v2l_jax.llm.llama_config import config_from_huggingface
    from v2l_jax.towers import bert, clip_weights, vit_weights
    from v2l_jax.towers.clip_settings import ClipSettings, Preprocessing

    sizes = {
        "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30,
        "intermediate_size": 8, "max_position_embeddings": 16,
    }  # fmt: skip
    bert_config, llama = bert.BertConfig(**sizes), config_from_huggingface(llama_folder.CONFIG)
    side = {"num_attention_heads": 2}
    settings = ClipSettings(side, side, Preprocessing())

    def build_clip(arrays: dict[str, np.ndarray]) -> None:
        with fitting_together("m", "a CLIP"):
            renamed = clip_weights.from_hugging_face(arrays)
        clip_weights.both_sides("m", renamed, settings)

    def build_bert(arrays: dict[str, np.ndarray]) -> None:
        with fitting_together("m", "a BERT"):
            params = bert.convert_checkpoint(arrays, 1)
            bert.check_shapes(bert_config, params, "m")

    def build_vit(arrays: dict[str, np.ndarray]) -> None:
        named = vit_weights._named(pathlib.Path("m"), arrays)
        defaults = vit_weights._DEFAULTS["dinov2"] | {"num_attention_heads": 2, "hidden_size": 4}
        with fitting_together("m", "a whole dinov2"):
            config = vit_weights._config("dinov2", defaults, named, "m")
            vit_weights._check_shapes(config, vit_weights._params(config, named))

    def build_llama(arrays: dict[str, np.ndarray]) -> None:
        checked = CheckedTensors(arrays, "m")
        checked.refuse_quantised()
        names = llama_weights.HUGGINGFACE_NAMES
        llama_weights.params_from_tensors(llama, checked, names, np.float32)
        checked.refuse_unread(llama_weights.without_effect())

    builders = (build_clip, build_bert, build_vit, build_llama)

    def read(content: bytes, folder: pathlib.Path) -> None:
        _build(content, builders, 1 << 20)

    with tempfile.TemporaryDirectory() as folder:
        place = tiny_models.write_clip(pathlib.Path(folder, "clip"))
        clip = safetensors.numpy.load_file(place / "model.safetensors")
        vit = tiny_vit.write_dinov2(pathlib.Path(folder))
    zeros = {name: np.zeros(shape, "f4") for name, shape in bert_shapes(sizes).items()}
    trees = (clip, zeros, vit, llama_folder.tensors())
    seeds = [
        json.dumps([number, *([n, x.dtype.name, x.shape] for n, x in tree.items())]).encode()
        for number, tree in enumerate(trees)
    ]
    return Reader(seeds, read)


def published_tokenizers() -> Reader:
    """Names and shapes of tokenizers that published code trained: V2L, VQ-GAN, LQAE."""
    from tests.published_checkpoint import published_arrays
    from v2l_jax.tokenizers.lqae_files import lqae_from_arrays
    from v2l_jax.tokenizers.reference import network_from_reference
    from v2l_jax.tokenizers.vqgan import vqgan_from_taming

    golden = pathlib.Path(__file__).parents[1] / "golden"
    with np.load(golden / "lqae_small.npz") as archive:
        lqae = {k[7:]: archive[k] for k in archive.files if k.startswith("params/")}
        words = archive["codebook"]
    v2l = published_arrays(40, 9, 24)
    taming = {
        name.replace("codebook_projection", "loss.x"): x
        for name, x in v2l.items()
        if "cross_attn" not in name and "tok_embeddings" not in name
    } | {"quantize.embedding.weight": np.zeros((40, 24), "f4")}
    builders = (
        network_from_reference,
        vqgan_from_taming,
        lambda arrays: lqae_from_arrays(arrays, words, 119, heads=2, model_heads=2),
    )

    def read(content: bytes, folder: pathlib.Path) -> None:
        _build(content, builders, 1 << 22)

    seeds = [
        json.dumps([number, *([n, x.dtype.name, x.shape] for n, x in tree.items())]).encode()
        for number, tree in enumerate((v2l, taming, lqae))
    ]
    return Reader(seeds, read)
