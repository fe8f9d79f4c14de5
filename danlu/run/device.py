"""Which device to compute on, and how fast it multiplies matrices (the limit that training is measured against)."""

import os
import shutil
import time

import torch

from danlu.run.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The named device, or the best one here. Raises UserError for a device this machine lacks."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used here", mend="Leave --device out to let it be found"
        ) from error
    return device


def can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` can build kernels: on a CPU that takes a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def gemm_peak_flops(device: torch.device, seconds: float = 0.6) -> float:
    """Measured bf16 matrix-product FLOP/s: the best of several 2048-cubed products (8192 on a GPU)."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
