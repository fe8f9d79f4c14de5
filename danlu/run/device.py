"""Which device to compute on, and how fast it multiplies matrices (the limit that training is measured against)."""

import ctypes
import os
import re
import shutil
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path

import torch

from danlu.run.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best one here. Raises UserError for a name that is not `cpu`, `cuda` or `cuda:N`, and
    for a device this machine lacks."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise UserError(f"unknown device {name!r}", where="--device", mend="Known are cpu, cuda, and cuda:N as cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used here", where="--device", mend="Leave --device out to let it be found"
        ) from error
    return device


def keep_freed_memory() -> None:
    """Let the C library keep what a training step frees for the next step, where that library is glibc.

    By default it hands large blocks back at once, and mapping them in anew, page by page, took 15 percent of a step
    of the demo. Memory does not grow: a step needs what the step before it freed.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        mmap_threshold, trim_threshold, top_pad = -3, -1, -2  # <malloc.h>
        library.mallopt(mmap_threshold, 1 << 30)
        library.mallopt(trim_threshold, (1 << 31) - 1)
        library.mallopt(top_pad, 64 << 20)


def can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` can build kernels: on a CPU that takes a C++ compiler and Python's headers."""
    if device.type != "cpu":
        return True
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.is_file() and any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether a kind of device (`cpu`, `cuda`) multiplies bfloat16 matrices in hardware."""
    return kind != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def say_float32() -> None:
    """One line, once."""
    print("this processor has no instructions for bfloat16: products are in float32", file=sys.stderr, flush=True)


def bfloat16_products(device: torch.device, wanted: bool) -> torch.autocast:
    """A context in which matrix products are in bfloat16, where that is wanted and the hardware has it: in software
    they take a hundred times as long as in float32 (0.9 against 121 GFLOP/s on two AVX2 cores)."""
    is_there = has_bfloat16(device.type)
    if wanted and not is_there:
        say_float32()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and is_there)


def gemm_peak_flops(device: torch.device, seconds: float = 0.6) -> float:
    """Measured matrix-product FLOP/s, in bfloat16 where the hardware has it, else in float32: the best of several
    2048-cubed products (8192 on a GPU)."""
    size = 2048 if device.type == "cpu" else 8192
    kind = torch.bfloat16 if has_bfloat16(device.type) else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
