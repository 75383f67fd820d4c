"""LLaMA-2's own tokenizer as the directory that Hugging Face publishes, from the registered
vocabulary.
"""

import base64
import json
import pathlib
import re

import numpy as np


def write_llama2_tokenizer(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes tokenizer.json and tokenizer_config.json.

    Args:
      source: the asset "llama-2-vocabulary".
      folder: made if missing.
    """
    encoded = re.findall(r"[\"'`]([A-Za-z0-9+/=]{1000,})[\"'`]", source.read_text("utf-8"))
    pieces, merges = map(base64.b64decode, encoded)
    vocabulary = pieces.decode("utf-8").split("\n")
    pairs = np.frombuffer(merges, "<u2").reshape(-1, 2)
    special = [
        {"id": i, "content": vocabulary[i], "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i in range(3)
    ]
    begin = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    normalizers = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    one = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pipeline = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": one,
            "pair": [*one, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": begin},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
            "merges": [[vocabulary[a], vocabulary[b]] for a, b in pairs],
        },
    }
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(pipeline), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(named | {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer"})
    )
    return folder
