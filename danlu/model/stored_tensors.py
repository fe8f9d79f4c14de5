"""Tensors of a model folder under Hugging Face's names, one after the other: safetensors in one file or several, in
Hugging Face's layout or in that of the published Qwen v1; and written.

What is there is known from the files' heads, before memory is taken for any of it.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from danlu.model.place import MODEL_WEIGHTS
from danlu.run.errors import UserError

WHOLE, INDEX = MODEL_WEIGHTS
PICKLED = "Its weights are pickles, which can run code: convert them to safetensors where they come from"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
"""By the names of safetensors; all else is read as float32."""


class StoredTensors(Protocol):
    """Tensors by name."""

    names: set[str]

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype:
        """As it is stored; float32 for what is quantised, or stored in a type that no model computes in."""
        ...

    def get(self, name: str) -> Tensor: ...


class SafeTensors:
    """Of safetensors files that are open."""

    def __init__(self, files: dict[str, Any], paths: dict[str, Path]) -> None:
        """`files` has the open file of each name, `paths` where that lies."""
        self._files, self._paths, self.names = files, paths, set(files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES.get(self._files[name].get_slice(name).get_dtype(), torch.float32)

    def get(self, name: str) -> Tensor:
        # Opened for this tensor alone: what was read of a file counts as this process's memory until it is closed.
        with safe_open(self._paths[name], framework="pt") as file:
            return file.get_tensor(name)


@contextmanager
def open_tensors(folder: Path) -> Iterator[SafeTensors]:
    """The tensors of a folder while inside. Raises UserError for a folder without weights, an index that names files or
    tensors which are not there, and a file that is cut off."""
    places = _places(folder)
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        paths: dict[str, Path] = {}
        for path in sorted(set(places.values())):
            opened = stack.enter_context(_opened(path))
            held = set(opened.keys())
            wanted = {name for name, place in places.items() if place == path} - {""}
            if missing := sorted(wanted - held):
                raise UserError(f"the tensor `{missing[0]}` is not in it, though {INDEX} says so", where=path)
            files.update(dict.fromkeys(wanted or held, opened))
            paths.update(dict.fromkeys(wanted or held, path))
        yield SafeTensors(files, paths)


@contextmanager
def open_file(path: Path) -> Iterator[SafeTensors]:
    """The tensors of one file while inside. Raises UserError where it is absent or cut off."""
    if not path.is_file():
        is_pickled = path.with_suffix(".bin").is_file()
        raise UserError("no such file", where=path, mend=PICKLED if is_pickled else None)
    with _opened(path) as opened:
        names = opened.keys()
        yield SafeTensors(dict.fromkeys(names, opened), dict.fromkeys(names, path))


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"not a whole safetensors file: {error}", where=path) from error


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, as every other way of writing does, where the disk is full or fails."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        # The library leaves a file that only its owner may read, whatever the user's mask says.
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor; of a single file all of its own, under the name ``."""
    if (folder / WHOLE).is_file():
        return {"": folder / WHOLE}
    index = folder / INDEX
    if not index.is_file():
        mend = f"A model folder holds config.json and {WHOLE} or {INDEX}"
        if any((folder / name).is_file() for name in PICKLES):
            mend = PICKLED
        raise UserError("no such file", where=folder / WHOLE, mend=mend)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): folder / Path(str(file)).name for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("not an index of safetensors files", where=index) from error
    if absent := sorted({path.name for path in places.values() if not path.is_file()}):
        raise UserError(f"it names files that are not here: {', '.join(absent)}", where=index)

    if not places:
        raise UserError("it names no tensor", where=index)
    return places


class QwenV1Tensors:
    """The published Qwen v1's tensors under Hugging Face's names of Qwen2 (recipe section 3)."""

    _PLAIN = (
        (r"model\.embed_tokens\.weight", "transformer.wte.weight"),
        (r"model\.norm\.weight", "transformer.ln_f.weight"),
        (r"lm_head\.weight", "lm_head.weight"),
        (r"model\.layers\.(\d+)\.input_layernorm\.weight", r"transformer.h.\1.ln_1.weight"),
        (r"model\.layers\.(\d+)\.post_attention_layernorm\.weight", r"transformer.h.\1.ln_2.weight"),
        (r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight", r"transformer.h.\1.attn.c_proj.weight"),
        (r"model\.layers\.(\d+)\.mlp\.gate_proj\.weight", r"transformer.h.\1.mlp.w2.weight"),
        (r"model\.layers\.(\d+)\.mlp\.up_proj\.weight", r"transformer.h.\1.mlp.w1.weight"),
        (r"model\.layers\.(\d+)\.mlp\.down_proj\.weight", r"transformer.h.\1.mlp.c_proj.weight"),
    )
    _FUSED = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")

    def __init__(self, stored: StoredTensors, wanted: set[str]) -> None:
        """`wanted` are Hugging Face's names; those whose source is there are `names`."""
        self._stored = stored
        sources = {name: self.source(name) for name in wanted}
        self.names = {name for name, (source, _) in sources.items() if source in stored.names}
        self.names |= stored.names - {source for source, _ in sources.values()}
        self._sources = sources

    def shape(self, name: str) -> tuple[int, ...]:
        source, part = self._sources[name]
        first, *rest = self._stored.shape(source)
        return (first if part is None else first // 3, *rest)

    def dtype(self, name: str) -> torch.dtype:
        return self._stored.dtype(self._sources[name][0])

    def get(self, name: str) -> Tensor:
        source, part = self._sources[name]
        tensor = self._stored.get(source)
        return tensor if part is None else tensor.chunk(3)[part]

    @classmethod
    def source(cls, name: str) -> tuple[str, int | None]:
        """The stored name, and which third of it."""
        if fused := cls._FUSED.fullmatch(name):
            layer, part, kind = fused.groups()
            return f"transformer.h.{layer}.attn.c_attn.{kind}", "qkv".index(part)
        for pattern, source in cls._PLAIN:
            if found := re.fullmatch(pattern, name):
                return found.expand(source), None
        return name, None


def check(
    stored: StoredTensors, wanted: dict[str, tuple[int, ...]], where: Path, is_free: Callable[[str], bool]
) -> None:
    """UserError for a tensor that is missing, has another shape, or that the model has no place for and is not free to
    be there."""
    for name, shape in wanted.items():
        if name not in stored.names:
            raise UserError(f"the tensor `{name}` is missing", where=where)
        if stored.shape(name) != shape:
            raise UserError(f"`{name}` is {stored.shape(name)}, config.json asks for {shape}", where=where)
    if extra := sorted(name for name in stored.names - wanted.keys() if not is_free(name)):
        raise UserError(f"the model of config.json has no tensor `{extra[0]}`", where=where)
