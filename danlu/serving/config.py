"""Values of `danlu chat` and `danlu serve`. Imports nothing heavy."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from danlu.inference.config import OpenConfig, SamplingConfig


@dataclass(frozen=True, kw_only=True)
class ChatConfig(OpenConfig):
    """Talk with a model in the terminal: many turns, streaming."""

    model: tyro.conf.Positional[Path]
    """Model folder."""

    system: str | None = None
    """System message; none by default, as in training."""

    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = field(default_factory=SamplingConfig)
    """How tokens are chosen."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(OpenConfig):
    """Serve a model over HTTP as OpenAI's API: chats, completions, streaming; many requests at once."""

    model: tyro.conf.Positional[Path]
    """Model folder."""

    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine reaches it. 0.0.0.0 for all."""

    port: int = 8000
    """Port to listen at; 0 for any that is free."""

    api_key: str | None = None
    """Key that every request but `/health` must bring; None takes the environment's DANLU_API_KEY, which other users
    of the machine cannot read from the list of processes."""

    model_name: str | None = None
    """Name that requests ask for; None for the folder's."""

    max_rows: int = 16
    """Replies generated at once; the cache is as large as max_rows times max_length."""

    max_length: int | None = None
    """Tokens of a prompt and its reply at most; None for what the model reads."""

    max_waiting: int = 100
    """Prompts that may wait for rows; further requests get status 503 and `Retry-After`."""

    max_body_bytes: int = 4 * 2**20
    """Size of a request at most: our choice, some thirty times the text that a window of 32,768 tokens holds."""

    body_seconds: float = 30.0
    """Time in which a request's body must have come; a slower one gets status 408."""

    drain_seconds: float = 30.0
    """Time that running replies have to finish after SIGINT or SIGTERM."""

    page: bool = True
    """Serve a page to chat with the model too."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_waiting", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, a prompt's token and a reply's, not {self.max_length}")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must lie in [0, 65535], not {self.port}")
        for name, least in (("body_seconds", "above 0"), ("drain_seconds", "from 0 upwards")):
            seconds = getattr(self, name)
            if not 0 <= seconds < math.inf or (name == "body_seconds" and not seconds):
                raise ValueError(f"{name} must be a number {least}, not {seconds}")
