"""The matrix product of the model's layers, for a CPU that answers as well as trains.

Shapes: N rows (tokens).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.run.device import has_bfloat16

FEW_ROWS = 32
"""Most rows that go to oneDNN directly. It keeps a kernel for every number of rows, some 0.2 MB each, for good: prompts
of all lengths would fill hundreds of megabytes for little gain."""


class Linear(nn.Linear):
    """`nn.Linear`, that on a CPU and without gradients gives few rows to oneDNN itself.

    PyTorch gives float32 products to another library, which reads the weights at half of the memory's speed or less
    where there are few rows. Measured on two cores, 5120 x 768: 20 against 13 GB/s for one row, 17 against 6 for two to
    eight, 8 against 5 for sixteen.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        num_rows = hidden.numel() // self.in_features
        if not 0 < num_rows <= FEW_ROWS or torch.is_grad_enabled() or not self.suits_onednn(hidden):
            return super().forward(hidden)
        if num_rows == 1 and hidden.dtype == torch.bfloat16:
            return self._by_pytorch(hidden)
        rows = hidden.reshape(num_rows, self.in_features)
        return _product(rows, self.weight, self.bias).view(*hidden.shape[:-1], self.out_features)

    def _by_pytorch(self, hidden: Tensor) -> Tensor:
        """PyTorch's own product of a row and a matrix of bfloat16, which it gives to oneDNN unless told not to.

        Measured on two cores, 9728 x 896: 1.24 to 0.53 ms, as fast as memory gives the weights. From two rows on it is
        no faster.
        """
        if not torch.backends.mkldnn.enabled:
            return super().forward(hidden)
        # For the whole process: what another thread computes meanwhile goes another way, to the same end but for
        # rounding.
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            return super().forward(hidden)
        finally:
            torch.backends.mkldnn.enabled = True  # type: ignore[assignment]

    def suits_onednn(self, hidden: Tensor) -> bool:
        """Whether oneDNN has a product of such rows: of bfloat16 only where the processor has instructions for it."""
        return (
            hidden.device.type == "cpu"
            and (hidden.dtype == torch.float32 or (hidden.dtype == torch.bfloat16 and has_bfloat16("cpu")))
            and hidden.dtype == self.weight.dtype
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
        )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's product: what a compiled model calls for a layer without an activation."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


PACKED_FOR = 512
"""Rows that the order of packed weights is chosen for. Measured with 1 and 512: other numbers are as fast with it."""


class PackedLinear(nn.Module):
    """A `Linear` that answers only: its weights lie in the order in which oneDNN reads them.

    Measured on two cores, 9728 x 896 in float32: eight rows 2.0 to 1.4 ms, 512 rows 57 to 42.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_FOR)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        rows = hidden.reshape(-1, self.in_features)
        num_rows = len(rows)
        if filler := few_numbers(num_rows) - num_rows:
            rows = F.pad(rows, (0, 0, 0, filler))
        product = _product(rows, self.packed, self.bias)
        return product[:num_rows].view(*hidden.shape[:-1], self.out_features)


def few_numbers(num_rows: int) -> int:
    """The next number upwards of which there are few: oneDNN keeps a kernel for each. Up to FEW_ROWS all; beyond, 16
    to a doubling, so that a sixteenth more is computed at most."""
    step = max(1, (1 << (num_rows - 1).bit_length()) // 32) if num_rows > FEW_ROWS else 1
    return -(-num_rows // step) * step


def pack(model: nn.Module) -> None:
    """Put a float32 model's matrices into the order that a CPU reads them in; in bfloat16, where the plain order is the
    fastest for one row, and on a GPU it stays as it is. It answers as before, only faster, and cannot be trained or
    saved any more. A matrix that is two things at once, head and embedding, is held twice."""
    # Modules that stay, and names alone of those that do not: each matrix goes when its packed form is there.
    parents = [module for module in model.modules() if not isinstance(module, Linear)]
    for parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            if isinstance(child, Linear) and child.weight.dtype == torch.float32 and child.suits_onednn(child.weight):
                setattr(parent, name, PackedLinear(child))
