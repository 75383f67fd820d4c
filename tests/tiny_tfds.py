"""A TFDS set of cats and dogs in ArrayRecord files, as `tfds build` leaves one, written without
TensorFlow.
"""

import importlib.resources
import importlib.resources.abc
import io
import sys

from PIL import Image


def write_pets(folder, splits, monkeypatch):
    """Writes "tiny_pets".

    Args:
      folder: TFDS's data_dir.
      splits: uint8 images by split; cats and dogs take turns.
      monkeypatch: pytest's. Writing (not reading) a TFDS set imports the backport of a standard
        module, which TFDS does not require.
    """
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():  # so that the set is found by its files alone

        class TinyPets(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
                label = tfds.features.ClassLabel(names=["cat", "dog"])
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(
                    builder=self, features=features, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in splits}

            def _generate_examples(self, split):
                for i, photo in enumerate(splits[split]):
                    file = io.BytesIO()
                    Image.fromarray(photo).save(file, "PNG")
                    file.seek(0)
                    yield i, {"image": file, "label": i % 2}

    TinyPets(data_dir=folder, file_format="array_record").download_and_prepare()
