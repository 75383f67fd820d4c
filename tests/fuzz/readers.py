"""Every reader of outside files, by name."""

from collections.abc import Callable

from tests.fuzz import data_readers, model_readers, run_readers
from tests.fuzz.harness import Reader

READERS: dict[str, Callable[[], Reader]] = {
    made.__name__: made
    for made in (
        data_readers.images, data_readers.csv, data_readers.captions, data_readers.boxes,
        data_readers.caption_texts,
        data_readers.questions, data_readers.question_files, data_readers.open_ended,
        data_readers.name_lists,
        model_readers.gguf, model_readers.safetensors_files, model_readers.torch_files,
        model_readers.pickles, model_readers.onnx, model_readers.peft,
        model_readers.tokenizer_json, model_readers.sentencepiece_model,
        model_readers.clip_tokenizer, model_readers.model_configs, model_readers.tower_configs,
        model_readers.networks, model_readers.published_tokenizers,
        run_readers.overrides, run_readers.workdir, run_readers.codebooks,
        run_readers.released, run_readers.archives, run_readers.index_pages,
    )
}  # fmt: skip
