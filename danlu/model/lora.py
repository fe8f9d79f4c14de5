"""Adapters of low rank beside weights that stay (LoRA, Hu et al. 2021, section 4.1), in memory and in PEFT's layout.

A projection gives x Wᵀ + scale · (x Aᵀ) Bᵀ, scale = alpha / rank; A is drawn and B is 0 at the beginning, so that
nothing has changed yet. Of a matrix that holds several projections each has adapters of its own, as Hugging Face's
models have them.
In: a model. Out: one that shares its weights and learns by adapters; a folder with the adapters; a model with them
merged in.
"""

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.model.hf_config import SCALAR_TASK
from danlu.model.linear import Linear
from danlu.model.place import ADAPTER_WEIGHTS, adapter_values, name_of
from danlu.model.stored_tensors import StoredTensors, open_file, save_tensors
from danlu.model.transformer import Backbone, ScalarModel
from danlu.run.errors import UserError
from danlu.run.files import ADAPTER_CONFIG, publish, write_json

B = TypeVar("B", bound=Backbone)

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's own layout."""

WHOLE = {name: name for name in ("score.weight", "lm_head.weight")} | {
    "embed_tokens.weight": "model.embed_tokens.weight"
}
"""What can learn whole beside adapters: our names, and Hugging Face's."""

READ = {"lora_alpha", "use_rslora", "base_model_name_or_path", "task_type"}
"""Settings of `adapter_config.json` that are read."""

SAID_BY_TENSORS = {
    "r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "ensure_weight_tying",
}  # fmt: skip
"""Those whose outcome the tensors show."""

OF_TRAINING = {
    "lora_dropout", "inference_mode", "auto_mapping", "revision", "peft_version", "eva_config", "runtime_config",
    "megatron_core", "qalora_group_size",
}  # fmt: skip
"""Those that change nothing about an adapter that is there, or say more of another setting."""

UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Others begin with a base that is not the one that is named.
    "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}
"""Those of which only some values are known. Any other setting must be off: it would change what is computed."""


class Adapter(nn.Module):
    """The low-rank product of one projection."""

    def __init__(
        self, in_features: int, out_features: int, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.scale = scale
        # As PEFT begins, which is nn.Linear's own way: evenly up to 1 / sqrt(in_features).
        bound = in_features**-0.5
        self.lora_A = nn.Parameter((2 * torch.rand(rank, in_features, generator=generator) - 1) * bound)
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out), in the adapter's own precision, or in autocast's."""
        return F.linear(F.linear(hidden.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.scale


class LoraLinear(Linear):
    """A `Linear` that shares the weights of another, which stay, beside adapters for the projections it holds."""

    def __init__(self, base: Linear, parts: Mapping[str, int], adapters: Mapping[str, Adapter]) -> None:
        """`parts` are the outputs of each projection, in order; those without an adapter stay as they are."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.parts, self.adapters = dict(parts), nn.ModuleDict(adapters)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        wide = super().forward(hidden)
        pieces = [
            self.adapters[part](hidden) if part in self.adapters else wide.new_zeros(*wide.shape[:-1], size)
            for part, size in self.parts.items()
        ]
        return wide + torch.cat(pieces, dim=-1).to(wide.dtype)

    @torch.no_grad()
    def merged(self) -> Linear:
        """One matrix that gives the same, with weights of its own."""
        plain = Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.bias = self.bias
        plain.weight = nn.Parameter(self.weight.clone())
        for part, weight in zip(self.parts, plain.weight.split(tuple(self.parts.values())), strict=True):
            if part in self.adapters:
                adapter = self.adapters[part]
                assert isinstance(adapter, Adapter)
                add_product(weight, adapter.lora_A, adapter.lora_B, adapter.scale)
        return plain


def adapted(
    model: B, targets: Sequence[str], rank: int, alpha: float, generator: torch.Generator, whole: Sequence[str] = ()
) -> B:
    """A model that shares the weights of `model`, which learn no more, and has new adapters for the projections
    `targets`. Modules in `whole` (`embed_tokens`, `lm_head`) are copies and learn whole, as a head for one number does
    in any case. Raises ValueError where embedding and head are one matrix, which cannot be two."""
    if whole and model.config.tie_word_embeddings:
        raise ValueError("embedding and head of this model are one matrix, which adapters in PEFT's layout cannot hold")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # Copied around its parameters, which are taken for copied already.
    result = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    device = next(model.parameters()).device
    for parent, name, linear in list(_projections(result)):
        parts = result.config.projections[name]
        adapters = {
            part: Adapter(linear.in_features, size, rank, alpha / rank, generator).to(device)
            for part, size in parts.items()
            if part in targets
        }
        if adapters:
            setattr(parent, name, LoraLinear(linear, parts, adapters))
    for name in ("score", *whole):
        if isinstance(module := getattr(result, name, None), nn.Linear | nn.Embedding):
            module.weight = nn.Parameter(module.weight.detach().clone())
    return result


def merge(model: Backbone) -> None:
    """Add the adapters to the weights, which become the model's own, and take them out."""
    for parent, name, linear in list(_projections(model)):
        if isinstance(linear, LoraLinear):
            setattr(parent, name, linear.merged())


def add_product(weight: Tensor, low: Tensor, up: Tensor, scale: float) -> None:
    """W becomes W + scale · B A, summed in the wider of the two types and rounded once."""
    weight.copy_(weight + (up @ low) * scale)


def _projections(model: Backbone) -> Iterator[tuple[nn.Module, str, Linear]]:
    """The blocks' matrices: the module each lies in, its name there, and itself."""
    for parent in model.layers.modules():
        for name, child in parent.named_children():
            if name in model.config.projections and isinstance(child, Linear):
                yield parent, name, child


def adapter_tensors(model: Backbone) -> dict[str, Tensor]:
    """What has been learnt under PEFT's names: the adapters, and what learns whole."""
    tensors, learning = {}, {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        if found := re.fullmatch(r"(layers\.\d+\.\w+)\.\w+\.adapters\.(\w+)\.(lora_[AB])", name):
            module, part, side = found.groups()
            tensors[f"{PREFIX}model.{module}.{part}.{side}.weight"] = tensor
        elif name in WHOLE and name in learning:
            tensors[PREFIX + WHOLE[name]] = tensor
    return tensors


def save_adapter(folder: Path, model: Backbone, base: Path, targets: Sequence[str], rank: int, alpha: float) -> None:
    """Write what `adapted` has added to the model of `base` as a folder in PEFT's layout, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    values = {
        "peft_type": "LORA",
        "task_type": SCALAR_TASK if isinstance(model, ScalarModel) else "CAUSAL_LM",
        "base_model_name_or_path": name_of(base),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "modules_to_save": [name.split(".")[-2] for name in tensors if ".lora_" not in name] or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with publish(folder) as aside:
        aside.mkdir()
        write_json(aside / ADAPTER_CONFIG, values)
        save_tensors(tensors, aside / ADAPTER_WEIGHTS)


def is_never(name: str) -> bool:
    """Of no tensor."""
    return False


@torch.no_grad()
def add_adapter(
    places: Mapping[str, Tensor],
    folder: Path,
    needs: Collection[str] = (),
    may_be_left: Callable[[str], bool] = is_never,
) -> None:
    """Add the adapter in `folder`, in PEFT's layout, to a model's weights `places` (Hugging Face's names), and put the
    tensors that it holds whole, those named in `needs` among them, in place of the model's. What it holds for a weight
    that the model does not have is left where `may_be_left` says so. Raises UserError, before a weight is changed, for
    what is not such an adapter or does not fit the model."""
    values = adapter_values(folder)
    for name in sorted(values.keys() - READ - SAID_BY_TENSORS - OF_TRAINING | {"peft_type"}):
        if (value := values.get(name)) not in UNDERSTOOD.get(name, ()) and (value or name == "peft_type"):
            where = folder / ADAPTER_CONFIG
            raise UserError(f"{name} is {value!r:.60}, which Danlu does not read", where=where)
    with open_file(folder / ADAPTER_WEIGHTS) as stored:
        pairs, whole = _sorted_out(stored, places, needs, may_be_left, folder)
        alpha = _alpha(values, folder)
        for name in pairs:
            low, up = (stored.get(_side(name, side)).to(places[name].device, torch.float32) for side in "AB")
            rank = len(low)
            scale = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
            add_product(places[name], low, up, scale)
        for name in whole:
            places[name].copy_(stored.get(PREFIX + name))


def _side(name: str, side: str) -> str:
    """PEFT's name of one half of the adapter of a weight."""
    return f"{PREFIX}{name.removesuffix('.weight')}.lora_{side}.weight"


def _weight_of(name: str) -> str:
    """The weight that a tensor of an adapter's file belongs to, under Hugging Face's name."""
    return re.sub(r"\.lora_[AB]\.weight$", ".weight", name.removeprefix(PREFIX))


def _sorted_out(
    stored: StoredTensors,
    places: Mapping[str, Tensor],
    needs: Collection[str],
    may_be_left: Callable[[str], bool],
    folder: Path,
) -> tuple[list[str], list[str]]:
    """The weights that an adapter changes, and those that it holds whole. UserError for a tensor that fits none."""
    matrices = [name for name in places if places[name].dim() == 2]
    pairs = [name for name in matrices if _side(name, "A") in stored.names or _side(name, "B") in stored.names]
    whole = [name for name in places if PREFIX + name in stored.names or name in needs]
    shapes = {PREFIX + name: tuple(places[name].shape) for name in whole}
    for name in pairs:
        out_features, in_features = places[name].shape
        low, up = _side(name, "A"), _side(name, "B")
        rank = max((1, *stored.shape(low)[:1])) if low in stored.names else 1
        shapes |= {low: (rank, in_features), up: (out_features, rank)}
    where = folder / ADAPTER_WEIGHTS
    if not shapes:
        raise UserError("holds no adapter for a weight of its base", where=where)
    for name, shape in shapes.items():
        if name not in stored.names:
            raise UserError(f"the tensor `{name}` is missing", where=where)
        if stored.shape(name) != shape:
            raise UserError(f"`{name}` is {stored.shape(name)}, its base asks for {shape}", where=where)
    left = {name for name in stored.names - shapes.keys() if may_be_left(_weight_of(name))}
    if extra := sorted(stored.names - shapes.keys() - left):
        raise UserError(f"its base has nothing that `{extra[0]}` belongs to", where=where)
    return pairs, whole


def _alpha(values: Mapping[str, Any], folder: Path) -> float:
    alpha = values.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(f"lora_alpha must be a number, not {alpha!r}", where=folder / ADAPTER_CONFIG)
    return float(alpha)
