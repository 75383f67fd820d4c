"""Language models and a CLIP in Hugging Face's layout, tiny and random."""

import json

import numpy as np
import tokenizers
from safetensors.numpy import save_file

CORPUS = [
    "a photo of a cat and a dog on the red sofa near a green tree",
    "two dogs run over the grass while the cat sleeps under a table",
    "pizza with cheese and basil on a white plate beside a glass of water",
] * 3
WIDTH, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 48, 2, 4, 2, 8


def random_weights(seed, shapes):
    """Weights of unit gain, norms about 1, biases about 0."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        is_norm = "norm" in name and name.endswith("weight")
        tensors[name] = (rng.standard_normal(shape) * scale + is_norm).astype(np.float32)
    return tensors


def byte_level(size):
    """A tokenizer as of GPT-2, Qwen2 and LLaMA 3."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentencepiece(size):
    """A tokenizer as of LLaMA 1 and 2 and Mistral, with bytes to fall back on."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    normalizers = tokenizers.normalizers
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    decoders = tokenizers.decoders
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    special = ["<unk>", "<|begin|>", "<|end|>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False
    )
    # Words apart, so that no merge spans them; the finished pipeline splits nowhere, as published.
    backend.train_from_iterator([word for line in CORPUS for word in line.split()], trainer)
    pipeline = json.loads(backend.to_str())
    for token in pipeline["added_tokens"]:
        token["special"] = not token["content"].startswith("<0x")
    pipeline["added_tokens"] = [token for token in pipeline["added_tokens"] if token["special"]]
    return tokenizers.Tokenizer.from_str(json.dumps(pipeline))


def write_llm(folder, family, backend, seed=0, context=512):
    """A directory in Hugging Face's layout, with random weights."""
    folder.mkdir()
    vocab = backend.get_vocab_size()
    config = {
        "model_type": family, "vocab_size": vocab, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": context, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": family == "qwen2", "sliding_window": 16, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    backend.save(str(folder / "tokenizer.json"))
    shapes = {"model.embed_tokens.weight": (vocab, WIDTH), "model.norm.weight": (WIDTH,)}
    if family != "qwen2":
        shapes["lm_head.weight"] = (vocab, WIDTH)
    rows = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    for layer in (f"model.layers.{i}." for i in range(LAYERS)):
        shapes |= {
            f"{layer}input_layernorm.weight": (WIDTH,),
            f"{layer}post_attention_layernorm.weight": (WIDTH,),
        }
        shapes |= {
            f"{layer}self_attn.{part}_proj.weight": (count, WIDTH) for part, count in rows.items()
        }
        if family == "qwen2":
            shapes |= {
                f"{layer}self_attn.{part}_proj.bias": (count,) for part, count in rows.items()
            }
        shapes[f"{layer}self_attn.o_proj.weight"] = (WIDTH, HEADS * HEAD_DIM)
        shapes |= {f"{layer}mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (WIDTH, INNER)
    save_file(random_weights(seed, shapes), folder / "model.safetensors")
    return folder


def _block_shapes(prefix, width):
    shapes = {
        f"{prefix}{name}.{leaf}": (width,)
        for name in ("layer_norm1", "layer_norm2")
        for leaf in ("weight", "bias")
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {
            f"{prefix}self_attn.{part}.weight": (width, width),
            f"{prefix}self_attn.{part}.bias": (width,),
        }
    shapes |= {f"{prefix}mlp.fc1.weight": (2 * width, width), f"{prefix}mlp.fc1.bias": (2 * width,)}
    return shapes | {
        f"{prefix}mlp.fc2.weight": (width, 2 * width),
        f"{prefix}mlp.fc2.bias": (width,),
    }


def write_clip(folder):
    """A CLIP directory in Hugging Face's layout, with random weights: 2 layers a side, 16 pixels,
    12 dimensions.
    """
    folder.mkdir(parents=True)
    pieces = [c + end for end in ("", "</w>") for c in "abcdefghijklmnopqrstuvwxyz0123456789.,'"]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    side = {"num_attention_heads": 2, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": side, "vision_config": side})
    )
    shapes = {
        "text_model.embeddings.token_embedding.weight": (len(vocab), 16),
        "vision_model.embeddings.class_embedding": (24,),
    }
    shapes |= {
        "text_model.embeddings.position_embedding.weight": (32, 16),
        "vision_model.embeddings.position_embedding.weight": (5, 24),
    }
    shapes |= {"vision_model.embeddings.patch_embedding.weight": (24, 3, 8, 8)}
    for name, width in (
        ("vision_model.pre_layrnorm", 24),
        ("vision_model.post_layernorm", 24),
        ("text_model.final_layer_norm", 16),
    ):
        shapes |= {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for i in range(2):
        shapes |= _block_shapes(f"text_model.encoder.layers.{i}.", 16) | _block_shapes(
            f"vision_model.encoder.layers.{i}.", 24
        )
    shapes |= {"visual_projection.weight": (12, 24), "text_projection.weight": (12, 16)}
    save_file(random_weights(1, shapes), folder / "model.safetensors")
    return folder
