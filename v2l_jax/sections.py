"""The options that belong to no single task, tokenizer, representation or job: name, type, default,
what each means and what it may hold.

The defaults are the paper's training run (Zhu et al. 2024).
"""

import dataclasses
import functools

from v2l_jax.options import (
    COUNT,
    DTYPE,
    FLAG,
    NAME,
    POSITIVE,
    TEMPLATE,
    TEXT,
    WEIGHT,
    Rule,
    each,
    entries,
    number,
    one_of,
    option,
)
from v2l_jax.towers import image_text
from v2l_jax.training.optimizer import OPTIMIZERS, SCALINGS
from v2l_jax.training.remat import REMAT_POLICIES

JOBS = (
    "codebook", "train", "tokenize", "vocabulary", "finetune", "evaluate", "sweep", "release",
    "report",
)  # fmt: skip

_AXIS = Rule(
    "a positive integer, or -1 for what the others leave",
    lambda v: isinstance(v, int) and (v == -1 or v > 0),
)
_TWO_STEPS = Rule(
    "() or two steps first, last with 1 <= first <= last",
    lambda v: v == () or (each(POSITIVE).allows(v) and len(v) == 2 and v[0] <= v[1]),
)
_SHARDING_RULE = Rule(
    "a regex and a tuple of an axis, axes or None for each dimension",
    lambda v: (
        isinstance(v, (tuple, list))
        and len(v) == 2
        and isinstance(v[0], str)
        and isinstance(v[1], (tuple, list))
    ),
)
_TOWER = Rule(image_text.addresses(), image_text.is_address)
_RANGE = Rule(
    "() or two numbers low, high with 0 < low <= high <= 1",
    lambda v: isinstance(v, tuple) and (v == () or (len(v) == 2 and 0 < v[0] <= v[1] <= 1)),
)
_TWO_HEADS = Rule(
    "() or two positive integers", lambda v: v == () or (each(POSITIVE).allows(v) and len(v) == 2)
)
_THREE = Rule(
    "() or three positive numbers",
    lambda v: v == () or (each(number(1e-6)).allows(v) and len(v) == 3),
)
_TEMPLATES = Rule(
    "'imagenet', or a tuple of texts with one {} each",
    lambda v: v == "imagenet" or each(TEMPLATE, least=1).allows(v),
)
_SHARDING = (
    ("^frozen/.*local_words$", ("tensor",)),
    ("^frozen/", ()),
    ("kernel$", ("...", "fsdp")),
)
_unmeasured = functools.partial(option, changes_results=False)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What stands at the top of a config."""

    seed: int = option(0, "seed of everything that is drawn", COUNT)
    jobs: tuple[str, ...] = _unmeasured(
        ("codebook", "train", "tokenize", "evaluate", "report"),
        f"what is run, in this order: {', '.join(JOBS)}",
        each(one_of(*JOBS), least=1),
    )
    profile: tuple[int, ...] = _unmeasured(
        (),
        "first and last training step to trace, such as 21,23; "
        "then: tensorboard --logdir WORKDIR/profile (or xprof)",
        _TWO_STEPS,
    )
    sharding: tuple = _unmeasured(
        _SHARDING,
        "what lies where: the first (regex, axes of the dimensions) that fits a name decides; "
        "a dimension that does not divide is not split",
        each(_SHARDING_RULE),
    )
    published: bool = option(
        False,
        "follow the published code to the letter where it departs from the paper: every subword "
        "is a word, prompts are put together of pieces encoded one by one, its bracketed "
        "instruction, its mask with end tokens; options that depart from it are refused",
        FLAG,
    )
    llm: str = option(
        "hf://meta-llama/Llama-2-7b-hf",
        "the frozen language model: a registered asset, hf://organisation/model, or a local path",
        NAME,
    )
    tower: str = option(
        "clip:hf://openai/clip-vit-large-patch14",
        "the frozen image-text tower that says which words an image is near to: 'conse', or "
        "'clip:' "
        "and an asset, hf:// address or path",
        _TOWER,
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Axes of the device mesh; they multiply to the number of devices."""

    replica: int = _unmeasured(1, "whole copies", _AXIS)
    data: int = _unmeasured(-1, "parts of the batch; -1 is what the others leave", _AXIS)
    fsdp: int = _unmeasured(1, "parts of the batch and of the training state", _AXIS)
    tensor: int = _unmeasured(1, "parts of the codebook search and of the LLM's matrices", _AXIS)


@dataclasses.dataclass(frozen=True)
class LlmOptions:
    """How the language model is loaded and run."""

    tokenizer: str = option("", "where its tokenizer is; '' is beside the weights", TEXT)
    dtype: str = option(
        "bfloat16",
        "of matrix products: float32, the same on every backend; tf32, faster ones of float32 on "
        "GPUs and TPUs; bfloat16; auto = bfloat16 where the hardware has it",
        DTYPE,
    )
    token_budget: int = _unmeasured(
        16_384, "tokens in a batch, padding included", number(64, integer=True)
    )


@dataclasses.dataclass(frozen=True)
class TowerOptions:
    """How the image-text tower is loaded and run; the first six are ConSE's, the next four override
    what lies beside a CLIP's weights.
    """

    classifier: str = option("", "ConSE: the image classifier", TEXT)
    sentence_encoder: str = option("", "ConSE: the sentence encoder", TEXT)
    synsets: str = option("", "ConSE: the classifier's classes as WordNet ids", TEXT)
    lemmas: str = option("", "ConSE: the words of each WordNet id", TEXT)
    top_classes: int = option(10, "ConSE: classes that an image's vector is the mean of", POSITIVE)
    class_template: str = option("{}", "ConSE: the sentence that names a class", TEMPLATE)
    activation: str = option(
        "",
        "CLIP: quick_gelu or gelu; '' is what lies beside the weights, else OpenAI's quick_gelu",
        one_of("", "quick_gelu", "gelu"),
    )
    heads: tuple[int, ...] = option(
        (), "CLIP: attention heads of the image and the text side; () as above", _TWO_HEADS
    )
    image_mean: tuple[float, ...] = option(
        (), "CLIP: mean of the image's channels in 0..1; () as above", _THREE
    )
    image_std: tuple[float, ...] = option(
        (), "CLIP: standard deviation of the image's channels; () as above", _THREE
    )
    dtype: str = option("bfloat16", "of matrix products, as llm_options.dtype", DTYPE)
    batch_size: int = _unmeasured(256, "images or texts at a time", POSITIVE)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The images of a run."""

    kind: str = option(
        "tfds",
        "'folders', 'tfds' (the TFDS set `data.name`) or 'synthetic'",
        one_of("folders", "tfds", "synthetic"),
    )
    name: str = option("imagenet2012", "what results call the data set; TFDS's own name", NAME)
    tfds_dir: str = option("", "TFDS's data folder; '' is its default", TEXT)
    tfds_train: str = option("train", "TFDS: the split trained on, such as train[:95%]", NAME)
    tfds_validation: str = option(
        "validation", "TFDS: the split measured on, such as test, or train[95%:]", NAME
    )
    tfds_image: str = option("image", "TFDS: the field that holds the image", NAME)
    tfds_label: str = option(
        "label", "TFDS: the field that holds the class; '' for a set without classes", TEXT
    )
    labelled: tuple[str, ...] = option((), "folders with a folder of images a class", each(NAME))
    rename_classes: dict[str, str] = option(
        {}, "what to call a class instead of its folder", entries(NAME)
    )
    unlabelled: tuple[str, ...] = option(
        (), "folders of images that the tokenizer trains on too", each(NAME)
    )
    report: tuple[str, ...] = _unmeasured(
        ("scikit-image-photos",), "folders of images that only the report shows", each(NAME)
    )
    held_out: float = option(
        0.04,
        "share of each class that is never trained on: queries, and reconstruction; folders only, "
        "TFDS sets have their own validation split",
        number(0.01, 0.99),
    )
    crop_size: int = option(
        224,
        "bicubic crop that is then resampled to the tokenizer's size, as the published code does "
        "for "
        "CLIP; 0 = straight",
        COUNT,
    )
    antialias: bool = option(False, "whether that resampling filters first", FLAG)
    short_side: int = option(
        0,
        "training images are decoded once, brought down to this and kept in memory; 0 reads them "
        "anew "
        "each time",
        COUNT,
    )
    synthetic_length: int = option(512, "images of the synthetic set", POSITIVE)
    synthetic_size: int = option(224, "their side", number(8, integer=True))


@dataclasses.dataclass(frozen=True)
class CodebookOptions:
    """Words and their vectors. Subwords come in the order of the vocabulary, commonest first."""

    word_initial: bool = option(
        False, "leave out subwords that cannot begin a word; the published code keeps them", FLAG
    )
    vocabulary_limit: int = option(0, "subwords that become words; 0 = all", COUNT)
    expand_limit: int = option(
        0, "how many of these are expanded to bigrams and trigrams; 0 = all", COUNT
    )
    local_limit: int = option(0, "how many of these make up the local codebook; 0 = all", COUNT)
    ngrams: int = option(3, "longest words, in subwords", number(1, 3, integer=True))
    templates: str | tuple[str, ...] = option(
        "imagenet",
        "sentences that a word's vector is the mean of; 'imagenet' is CLIP's 80",
        _TEMPLATES,
    )
    merge_spellings: bool = option(
        False, "' Dog', ' dogs', 'dog,' compete as one; the published code keeps all", FLAG
    )
    filter_top: int = option(5, "nearest words of a training image that count as hits", POSITIVE)
    filter_min_hits: int = option(
        1, "hits that keep a word (paper: 1; the published code keeps counts above 100)", POSITIVE
    )
    expand_batch_size: int = _unmeasured(1024, "subwords expanded at a time", POSITIVE)
    embed_batch_size: int = _unmeasured(4096, "texts encoded at a time", POSITIVE)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The visual tokenizer's network; options of one kind alone stand under `model.<kind>`."""

    kind: str = option("v2l", "which tokenizer: a file of v2l_jax/tokenizers", NAME)
    released: str = option(
        "",
        "a checkpoint of the published code (.pth) that takes the place of training; its sizes and "
        "word vectors are read off it",
        TEXT,
    )
    released_words: str = option(
        "",
        "its global words: a .npy of strings, or a text file, one a line; '' makes them anew with "
        "llm and tower, which takes hours with the paper's",
        TEXT,
    )
    image_size: int = option(128, "side of its images, pixels", number(8, integer=True))
    channels: int = option(
        128,
        "width of the first level",
        Rule("a multiple of 32", lambda v: isinstance(v, int) and v > 0 and v % 32 == 0),
    )
    channel_multipliers: tuple[int, ...] = option(
        (1, 2, 2, 4),
        "width of each level over `channels`; the side halves between levels",
        each(POSITIVE, least=1),
    )
    num_res_blocks: int = option(2, "residual blocks a level", POSITIVE)
    z_channels: int = option(256, "width between autoencoder and quantizer", POSITIVE)
    attn_resolutions: tuple[int, ...] = option(
        (16,), "resolutions with self-attention, counted from `resolution`", each(POSITIVE)
    )
    resolution: int = option(
        256,
        "nominal side that attn_resolutions counts from (the paper's never reaches 16 on the way "
        "down "
        "from 256 in 4 levels)",
        POSITIVE,
    )
    cross_attention_heads: int = option(
        8,
        "heads of the decoder's attention to global words; 0 = it sees none of them (the paper's "
        "row of 256 tokens)",
        COUNT,
    )
    global_tokens: int = option(21, "global words an image gets", POSITIVE)
    dtype: str = option("bfloat16", "of convolutions and matrix products", DTYPE)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How the visual tokenizer is trained."""

    start_from: str = option(
        "",
        "a released tokenizer ('v2l-mini', or its folder) whose parameters training goes on from; "
        "'' = from nothing",
        TEXT,
    )
    start_from_nothing: bool = option(
        False,
        "where the run's words or sizes are not those of start_from: train from nothing, with a "
        "line that says so; False is an error",
        FLAG,
    )
    steps: int = option(
        0, "training steps; 0 = by `epochs`. A finished run can be prolonged", COUNT
    )
    epochs: float = option(100.0, "passes over the images, instead of steps", number(0))
    batch_size: int = option(256, "images a step, over all devices", POSITIVE)
    micro_batches: int = option(
        1, "parts of a batch whose gradients are added up one after the other", POSITIVE
    )
    optimizer: str = option(
        "adam", "adam; adamw for transformers; lamb or lars for large batches", one_of(*OPTIMIZERS)
    )
    learning_rate: float = option(4.5e-4, "peak learning rate", number(0, 1))
    learning_rate_scaling: str = option(
        "none", "in batch_size / base_batch_size: none, linear or sqrt", one_of(*SCALINGS)
    )
    base_batch_size: int = option(256, "the batch size that learning_rate is meant for", POSITIVE)
    warmup_steps: int = option(0, "steps of linear warm-up; 0 = by `warmup_epochs`", COUNT)
    warmup_epochs: float = option(5.0, "epochs of linear warm-up", number(0))
    perceptual: str = option("lpips-vgg16", "weights of LPIPS; '' trains without", TEXT)
    perceptual_images: int = option(0, "images of a batch that LPIPS sees; 0 = all", COUNT)
    weight_quantizer: float = option(1.0, "of the quantizer's loss", WEIGHT)
    weight_pixels: float = option(1.0, "of the mean absolute error", WEIGHT)
    weight_perceptual: float = option(0.1, "of LPIPS", WEIGHT)
    weight_adversarial: float = option(
        0.75, "of the generator's loss, times the adaptive weight", WEIGHT
    )
    weight_entropy: float = option(
        0.0,
        "of the codebook's entropy regulariser: sure assignments, words used alike (MAGVIT-v2: "
        "0.1)",
        WEIGHT,
    )
    entropy_temperature: float = option(0.01, "of its soft assignments", number(1e-6))
    disc_start: int = option(10_000, "the step after which the GAN plays", COUNT)
    disc_warmup: int = option(
        0,
        "steps before that from which the discriminator trains already, on reconstructions",
        COUNT,
    )
    encoder_start: int = option(0, "step before which the encoder does not move", COUNT)
    encoder_scale: float = option(1.0, "of the encoder's learning rate", number(0, 1))
    projector_fit_every: int = option(
        0, "refit the projector to the encoder's features; 0 = never", COUNT
    )
    projector_fit_until: int = option(0, "the last step that does so", COUNT)
    projector_recenter_every: int = option(
        0, "shift and scale the projector's output to the encoder's features; 0 = never", COUNT
    )
    projector_revive_every: int = option(
        0, "send words unused since the last time towards their nearest features; 0 = never", COUNT
    )
    ema_decay: float = option(
        0.0,
        "of the moving average of the weights that is evaluated and kept; 0 = none",
        number(0, 0.999999),
    )
    skip_spikes_above: float = option(
        0.0,
        "leave out steps whose gradient is so many times its usual norm; 0 = none",
        Rule("0, or a number above 1", lambda v: number(0).allows(v) and (v == 0 or v > 1)),
    )
    skip_spikes_start: int = option(100, "steps before the first that may be left out", POSITIVE)
    remat: str = _unmeasured(
        "none",
        "activations: 'blocks' keeps those between blocks, 'all' recomputes all; saves memory",
        one_of(*REMAT_POLICIES),
    )
    crop_scale: tuple[float, ...] = option(
        (),
        "smallest and largest share of an image's area that a random crop keeps; () = no crop",
        _RANGE,
    )
    flip: bool = option(False, "mirror every other image", FLAG)
    loader_workers: int = _unmeasured(16, "processes that decode images; 0 = threads", COUNT)
    log_every: int = _unmeasured(100, "steps between rows of metrics.jsonl", POSITIVE)
    eval_every: int = option(
        5_000, "steps between evaluations, of which the best is kept", POSITIVE
    )
    checkpoint_every: int = _unmeasured(2_500, "steps between checkpoints", POSITIVE)
    keep_last: int = _unmeasured(2, "newest checkpoints that are kept", POSITIVE)
    keep_every: int = _unmeasured(
        0, "also keep the checkpoints of every so many steps; 0 = none", COUNT
    )
    hang_minutes: float = _unmeasured(
        0, "no step for so long: print every thread's stack and exit; 0 = wait for ever", number(0)
    )


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What is measured; each task's own options stand under its name."""

    tasks: tuple[str, ...] = _unmeasured(
        ("reconstruction", "few_shot"), "files of v2l_jax/tasks, in order", each(NAME)
    )
    batch_size: int = _unmeasured(256, "images at a time", POSITIVE)


@dataclasses.dataclass(frozen=True)
class RepresentationOptions:
    """How an image is written for the language model; options of one kind stand under its name."""

    kind: str = option("v2l_words", "which way: a file of v2l_jax/representations", NAME)


SECTIONS: dict[str, type] = {
    "": Experiment,
    "mesh": Mesh,
    "llm_options": LlmOptions,
    "tower_options": TowerOptions,
    "data": DataOptions,
    "codebook": CodebookOptions,
    "model": ModelOptions,
    "train": TrainOptions,
    "representation": RepresentationOptions,
    "evaluate": EvaluateOptions,
}
"""Where each stands in a config."""
