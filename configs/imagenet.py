"""The paper's tokenizer: ImageNet at 128 px, LLaMA-2's vocabulary, CLIP ViT-L/14, 100 epochs at a
global batch of 256.

python -m v2l_jax.main --config=configs/imagenet.py --workdir=/data/v2l_imagenet

Needs TFDS imagenet2012 (tfds build imagenet2012 --file_format=array_record), and access to the two
models on the Hugging Face hub. The paper trained on 32 GPUs and reports FID 3.41, LPIPS 0.08, PSNR
23.56 with local tokens (Table 3). Not run by us at full length: a test takes a step of it on
synthetic data of the right shapes.
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

    config.llm = "hf://meta-llama/Llama-2-7b-hf"
    config.llm_options = ConfigDict()
    config.llm_options.tokenizer = ""
    config.llm_options.dtype = "bfloat16"
    config.llm_options.token_budget = 16_384

    config.tower = "clip:hf://openai/clip-vit-large-patch14"
    config.tower_options = ConfigDict()
    config.tower_options.classifier = ""  # this and the next five are ConSE's
    config.tower_options.sentence_encoder = ""
    config.tower_options.synsets = ""
    config.tower_options.lemmas = ""
    config.tower_options.top_classes = 10
    config.tower_options.class_template = "{}"
    config.tower_options.dtype = "bfloat16"
    config.tower_options.batch_size = 256

    config.data = ConfigDict()
    config.data.kind = "tfds"
    config.data.name = "imagenet2012"
    config.data.tfds_dir = ""
    config.data.labelled = ()
    config.data.rename_classes = ConfigDict()
    config.data.unlabelled = ()
    config.data.report = ("scikit-image-photos",)
    config.data.held_out = 0.04  # folders only; ImageNet has its own validation split
    config.data.crop_size = 224  # what CLIP sees, resampled bilinearly to 128
    config.data.antialias = False
    config.data.synthetic_length = 512
    config.data.synthetic_size = 224

    config.codebook = ConfigDict()
    config.codebook.word_initial = False
    config.codebook.vocabulary_limit = 0
    config.codebook.expand_limit = 0
    config.codebook.local_limit = 0
    config.codebook.ngrams = 3
    config.codebook.templates = "imagenet"
    config.codebook.merge_spellings = False
    config.codebook.filter_top = 5
    config.codebook.filter_min_hits = 1  # paper; the published code keeps counts above 100
    config.codebook.expand_batch_size = 1024
    config.codebook.embed_batch_size = 4096

    config.model = ConfigDict()
    config.model.image_size = 128  # 16 × 16 = 256 local tokens
    config.model.channels = 128
    config.model.channel_multipliers = (1, 2, 2, 4)
    config.model.num_res_blocks = 2
    config.model.z_channels = 256
    config.model.attn_resolutions = (16,)
    config.model.resolution = (
        256  # nominal: attention at 16 never comes on the way down from 256 in 4 levels
    )
    config.model.cross_attention_heads = 8
    config.model.global_tokens = 21
    config.model.dtype = "bfloat16"

    config.train = ConfigDict()
    # a released tokenizer ("v2l-mini", or its folder) whose parameters training goes on from
    config.train.start_from = ""
    config.train.steps = 0
    config.train.epochs = 100.0
    config.train.batch_size = 256  # 8 images × 32 devices
    config.train.micro_batches = (
        1  # parts of a batch whose gradients are added up one after the other
    )
    config.train.optimizer = "adam"  # or "lamb", "lars", for large batches
    config.train.learning_rate = 4.5e-4
    config.train.learning_rate_scaling = (
        "none"  # or "linear", "sqrt": in batch_size / base_batch_size
    )
    config.train.base_batch_size = 256  # what learning_rate is meant for
    config.train.warmup_steps = 0
    config.train.warmup_epochs = 5.0
    config.train.perceptual = "lpips-vgg16"
    config.train.perceptual_images = 0  # of a batch; 0 = all
    config.train.weight_quantizer = 1.0
    config.train.weight_perceptual = 0.1
    config.train.weight_adversarial = 0.75
    # of the codebook's entropy regulariser: sure assignments, words used alike (MAGVIT-v2: 0.1)
    config.train.weight_entropy = 0.0
    config.train.entropy_temperature = 0.01  # of its soft assignments
    config.train.disc_start = 10_000
    config.train.disc_warmup = (
        0  # steps before that from which the discriminator trains already, on reconstructions
    )
    config.train.encoder_start = 0
    config.train.encoder_scale = 1.0  # of the learning rate
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
    config.train.crop_scale = ()  # no augmentation
    config.train.flip = False
    config.train.loader_workers = 16
    config.train.log_every = 100
    config.train.eval_every = 5_000
    config.train.checkpoint_every = 2_500
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
    config.evaluate.batch_size = 256
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
    config.evaluate.few_shot.rule = "greedy"
    config.evaluate.few_shot.calibrate = False
    config.evaluate.few_shot.single_words = False  # leave out words of several tokens
    config.evaluate.few_shot.selection = (
        "nearest"  # words, as published; or "diverse": no lemma twice, maximal marginal relevance
    )
    config.evaluate.few_shot.mmr = 0.8  # λ of "diverse": 1 is relevance alone, less is more diverse
    config.evaluate.few_shot.adaptive = (
        0.0  # leave out words below this share of the first word's similarity
    )
    config.evaluate.few_shot.ordering = "random"  # of shots; or "nearest_last"
    config.evaluate.few_shot.episodes = 1000
    config.evaluate.few_shot.controls = ("shuffled",)  # and "no_tokens"
    config.evaluate.few_shot.control_shots = (1, 3, 5)  # shots at which the controls run too
    config.evaluate.few_shot.episode_file = (
        ""  # published episodes instead, such as "fewshot_split/{ways}_way_{shots}_shot.csv"
    )
    config.evaluate.few_shot.episode_photos = ""  # the folder that their lines start from
    config.evaluate.few_shot.class_names = (
        ConfigDict()
    )  # what to call a class; WordNet ids have names already
    return config
