"""Values of `danlu chat`. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from danlu.inference.config import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Talk with a model in the terminal: many turns, streaming."""

    model: tyro.conf.Positional[Path]
    """Model folder."""

    system: str | None = None
    """System message; none by default, as in training."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`; None to find it."""

    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are chosen."""
