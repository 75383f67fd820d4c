"""The released tokenizer, v2l-mini: 128 px photos become 16 × 16 SmolLM2 words and come back.

python -m v2l_jax.main --config=configs/v2l_mini.py --workdir=runs/v2l_mini

Trained on every natural photo that the package registries were found to carry (992; about 360 MB of
packages, by pip, npm and apt-get), but for the 232 that the quickstart holds out: those, and
scikit-image's, are what it is measured on. Ends with runs/v2l_mini/release: the files and their
model card.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.jobs = ("codebook", "train", "release")
    # Devices: whole copies × parts of the batch × parts of batch and training state × parts of the
    # codebook search; -1 = the rest.
    config.mesh = ConfigDict({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
    # What lies where: the first (regex, dimensions' axes) that fits a name decides; a dimension
    # that does not divide is not split.
    config.sharding = (
        ("^frozen/.*local_words$", ("tensor",)),
        ("^frozen/", ()),
        ("kernel$", ("...", "fsdp")),
    )

    # Words: the quickstart's, so that its codebook is this tokenizer's.
    config.llm = "smollm2-135m-instruct"
    config.llm_options = ConfigDict()
    config.llm_options.tokenizer = ""  # beside the weights
    config.llm_options.dtype = "auto"
    config.llm_options.token_budget = 4096

    config.tower = "conse"
    config.tower_options = ConfigDict()
    config.tower_options.classifier = "efficientnet-lite2"
    config.tower_options.sentence_encoder = "minilm-l6-v2"
    config.tower_options.synsets = "imagenet-synsets"
    config.tower_options.lemmas = "imagenet-lemmas"
    config.tower_options.top_classes = 10
    config.tower_options.class_template = "{}"
    config.tower_options.dtype = "auto"
    config.tower_options.batch_size = 32

    config.codebook = ConfigDict()
    config.codebook.word_initial = True
    config.codebook.vocabulary_limit = 0
    config.codebook.expand_limit = 16_384
    config.codebook.local_limit = 8_192
    config.codebook.ngrams = 3
    config.codebook.templates = ("{}",)
    config.codebook.merge_spellings = True
    config.codebook.filter_top = 5
    config.codebook.filter_min_hits = 1
    config.codebook.expand_batch_size = 1024
    config.codebook.embed_batch_size = 512

    # Photos: the quickstart's, split as there (by content, class by class, by the seed); then all
    # others, for training alone.
    config.data = ConfigDict()
    config.data.kind = "folders"
    config.data.name = "photos of the package registries"
    config.data.labelled = (
        "pizza-steak-sushi/train",
        "pizza-steak-sushi/test",
        "dogs-cats/training",
        "dogs-cats/testing",
        "dogs-cats/train",
        "dogs-cats/val",
    )
    config.data.rename_classes = ConfigDict({"cats": "cat", "dogs": "dog"})
    config.data.held_out = 0.4
    config.data.unlabelled = ("natural-photos", "pictwo-photos", "plasma-photos", "mate-photos")
    config.data.report = ("scikit-image-photos",)  # never trained on either
    # training photos are decoded once, brought down to this, and kept in memory (about 0.6 GB)
    config.data.short_side = 384
    config.data.crop_size = 0  # straight to 128 px
    config.data.antialias = False
    config.data.tfds_dir = ""
    config.data.synthetic_length = 64
    config.data.synthetic_size = 160

    config.model = ConfigDict()
    config.model.image_size = 128
    config.model.channels = 32
    config.model.channel_multipliers = (
        1,
        1,
        2,
        4,
    )  # halves the side three times: 16 × 16 = 256 local tokens
    config.model.num_res_blocks = 1
    config.model.z_channels = 128
    config.model.attn_resolutions = ()
    config.model.resolution = 128
    config.model.cross_attention_heads = 8
    config.model.global_tokens = 5
    config.model.dtype = "float32"

    config.train = ConfigDict()
    # a released tokenizer ("v2l-mini", or its folder) whose parameters training goes on from
    config.train.start_from = ""
    config.train.steps = 2_200
    config.train.epochs = 0.0
    config.train.batch_size = 8
    config.train.micro_batches = 1
    config.train.optimizer = "adam"
    config.train.learning_rate = 8e-4
    config.train.learning_rate_scaling = "none"
    config.train.base_batch_size = 8
    config.train.warmup_steps = 100
    config.train.warmup_epochs = 0.0
    config.train.perceptual = "lpips-vgg16"
    config.train.perceptual_images = 2  # of a batch
    config.train.weight_quantizer = 1.0
    config.train.weight_perceptual = 0.1
    config.train.weight_adversarial = 0.75
    # of the codebook's entropy regulariser: sure assignments, words used alike (MAGVIT-v2: 0.1)
    config.train.weight_entropy = 0.0
    config.train.entropy_temperature = 0.01  # of its soft assignments
    config.train.disc_start = 10_000  # as in the paper: later than this run lasts
    config.train.disc_warmup = (
        0  # steps before that from which the discriminator trains already, on reconstructions
    )
    # As in the quickstart: the decoder learns first, the encoder then moves slowly, and the
    # projector is fitted to its features.
    config.train.encoder_start = 200
    config.train.encoder_scale = 0.2
    config.train.projector_fit_every = 20
    config.train.projector_fit_until = 1_600
    config.train.projector_recenter_every = (
        0  # shift and scale the projector's output to the encoder's features; 0 = never
    )
    config.train.projector_revive_every = (
        0  # send words unused since the last time towards their nearest features; 0 = never
    )
    config.train.ema_decay = 0.995
    config.train.skip_spikes_above = 0.0
    config.train.skip_spikes_start = 100
    config.train.remat = "none"
    config.train.crop_scale = (0.2, 1.0)  # of a photo's area
    config.train.flip = True
    config.train.loader_workers = 0
    config.train.log_every = 20
    config.train.eval_every = 275
    config.train.checkpoint_every = 50  # under two minutes: little is lost where it is stopped
    config.train.keep_last = 2
    config.train.keep_every = 0
    config.train.hang_minutes = 0

    config.release = ConfigDict()
    config.release.name = "v2l-mini"
    config.release.dtype = "float16"  # of the stored numbers

    config.evaluate = ConfigDict()
    config.evaluate.tasks = ()  # the release job measures what it writes
    config.evaluate.batch_size = 32
    return config
