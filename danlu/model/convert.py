"""A model from one layout to another: Hugging Face's, the published Qwen v1's, and GGUF.

In: whatever `danlu.load` opens. Out: a folder, or a file, with the same weights, bit by bit where they are neither
quantised nor narrowed, and a tokenizer that gives the same ids, with our ChatML template. Nothing is left where the
work fails.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from danlu.model.checkpoint import check_vocabulary, config_as_it_is, hf_tensors, load_model, save_model, stored_dtype
from danlu.model.config import ModelConfig
from danlu.model.gguf_file import PLAIN, QUANTIZATIONS, write_gguf
from danlu.model.hf_config import dtype_name
from danlu.model.place import tokenizer_place
from danlu.model.qwen_v1 import qwen_v1_config, qwen_v1_generation, qwen_v1_tensors
from danlu.model.stored_tensors import save_tensors
from danlu.model.transformer import Transformer
from danlu.run.errors import UserError
from danlu.run.files import publish, write_json
from danlu.run.progress import ProgressBar
from danlu.tokenizer.bpe import Tokenizer
from danlu.tokenizer.chat import CHAT_TEMPLATE
from danlu.tokenizer.formats import GGUF_SUFFIX, RANK_FILE, rank_lines
from danlu.tokenizer.special import IM_END, special_tokens

Layout = Literal["hf", "qwen-v1", "gguf"]

NAMES = {dtype_name(dtype): dtype for dtype in PLAIN.values()}
"""What a folder's weights may be."""


def convert(
    source: Path,
    out: Path,
    layout: Layout,
    kind: str | None = None,
    adapt: Callable[[ModelConfig], ModelConfig] = lambda config: config,
) -> list[str]:
    """Write the model of `source`, its configuration as `adapt` gives it, to `out`. `kind` is how weights are held, in
    any case: of a folder a key of NAMES, of GGUF one of PLAIN or QUANTIZATIONS; as they are where None, in the widest
    type that any of them has. The tensors of a GGUF file that were kept as F16 because they hold no whole blocks.

    Raises UserError, before anything is written, for a layout that cannot hold the model, and where `out` is not empty.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError("is there already", where=out, mend="Choose another name, or remove it")
    known = [name.lower() for name in (*PLAIN, *QUANTIZATIONS)] if layout == "gguf" else list(NAMES)
    kind = kind.lower() if kind else None
    if kind is not None and kind not in known:
        raise UserError(f"{kind!r} is no way to hold weights of {layout}", mend=f"There are {', '.join(known)}")
    if layout == "gguf" and out.suffix != GGUF_SUFFIX:
        raise UserError("a GGUF file's name ends in .gguf", where=out)
    tokenizer = Tokenizer.load(tokenizer_place(source))
    dtype = NAMES.get(kind or "", stored_dtype(source))
    model = load_model(source, dtype=dtype)
    model.extend(adapt(model.config))
    check_vocabulary(source, model, tokenizer)
    for name, tensor in hf_tensors(model).items():
        if not tensor.isfinite().all():
            raise UserError(f"`{name}` has numbers that {dtype_name(dtype)} does not hold", where=source)
    ends, pad = list(tokenizer.stop_ids), tokenizer.end_of_text_id
    if layout == "hf":
        save_model(out, model, source, ends, pad)
    elif layout == "qwen-v1":
        _write_qwen_v1(out, model, tokenizer, ends, pad)
    else:
        own = next(name for name, plain in PLAIN.items() if plain == dtype)
        return _write_gguf(out, source.stem, model, tokenizer, kind.upper() if kind else own)
    return []


def _write_qwen_v1(out: Path, model: Transformer, tokenizer: Tokenizer, ends: list[int], pad: int) -> None:
    vocabulary = tokenizer.vocabulary
    if vocabulary.special != special_tokens(len(vocabulary.ranks)):
        raise UserError("Qwen v1's code wants its own special tokens after the others", mend="Convert it to hf or gguf")
    dtype = next(model.parameters()).dtype
    config = qwen_v1_config(config_as_it_is(model), dtype, pad)
    with publish(out) as aside:
        aside.mkdir()
        write_json(aside / "config.json", config)
        write_json(aside / "generation_config.json", qwen_v1_generation(ends, pad))
        write_json(aside / "tokenizer_config.json", {
            "tokenizer_class": "QWenTokenizer", "model_max_length": model.config.max_position_embeddings,
        })  # fmt: skip
        (aside / RANK_FILE).write_bytes(rank_lines(vocabulary.ranks))
        tensors = {name: tensor.detach().contiguous() for name, tensor in hf_tensors(model).items()}
        save_tensors(qwen_v1_tensors(tensors), aside / "model.safetensors")


def _write_gguf(out: Path, name: str, model: Transformer, tokenizer: Tokenizer, kind: str) -> list[str]:
    tensors = hf_tensors(model)
    template = CHAT_TEMPLATE if IM_END in tokenizer.special else None
    with (
        publish(out) as aside,
        ProgressBar("gguf", total=len(tensors), unit="tensors") as bar,
        torch.no_grad(),
    ):
        return write_gguf(
            aside, name, config_as_it_is(model), tensors, tokenizer.vocabulary, template, kind, bar.advance
        )
