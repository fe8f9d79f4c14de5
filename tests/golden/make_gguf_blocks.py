"""Blocks of every quantised type with the numbers that llama.cpp's own code makes of them, as `gguf_blocks.json`.

    python tests/golden/make_gguf_blocks.py PATH/libggml-base.so

The numbers that are quantised are drawn here; quantising and its reverse are functions of that library.
"""

import base64
import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

BLOCKS = Path(__file__).with_name("gguf_blocks.json")
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
NUMBERS = 512
"""Of each type: two blocks of the largest kind."""


class TypeTraits(ctypes.Structure):
    """The beginning of ggml's `ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def made(library: ctypes.CDLL, kind: str) -> dict[str, str]:
    """Blocks of a type, and what they come to."""
    number = gguf.GGMLQuantizationType[kind].value
    traits = library.ggml_get_type_traits(number).contents
    assert traits.type_name.decode() == kind.lower().replace("_k", "_K"), traits.type_name
    numbers = np.random.default_rng(number).normal(0, 0.05, NUMBERS).astype(np.float32)
    blocks = np.zeros(NUMBERS // traits.blck_size * traits.type_size, dtype=np.uint8)
    written = library.ggml_quantize_chunk(
        number, numbers.ctypes.data_as(ctypes.c_void_p), blocks.ctypes.data_as(ctypes.c_void_p), 0, 1, NUMBERS, None
    )
    assert written == blocks.nbytes
    values = np.zeros(NUMBERS, dtype=np.float32)
    traits.to_float(blocks.ctypes.data, values.ctypes.data, NUMBERS)
    return {name: base64.b64encode(each.tobytes()).decode() for name, each in (("blocks", blocks), ("values", values))}


def main(path: str) -> None:
    library: Any = ctypes.CDLL(path)
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    BLOCKS.write_text(json.dumps({kind: made(library, kind) for kind in TYPES}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
