"""Servers that the tests of a session share: one whose replies are written down, one with a random model."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scripted_model import Served

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="session")
def scripted_server() -> "Iterator[Served]":
    from scripted_model import ScriptedModel, scripted_tokenizer, served

    tokenizer = scripted_tokenizer()
    with served(ScriptedModel(tokenizer), tokenizer) as server:
        yield server


@pytest.fixture
def server(scripted_server: "Served") -> "Iterator[Served]":
    """The scripted server, which every test must leave idle."""
    yield scripted_server
    scripted_server.model.delay = 0.0
    scripted_server.model.fail_with = None
    scripted_server.wait_until_idle()


@pytest.fixture(scope="session")
def random_server(tiny_model: "Callable[..., Transformer]", tiny_tokenizer: "Tokenizer") -> "Iterator[Served]":
    from scripted_model import served

    with served(tiny_model(max_position_embeddings=256), tiny_tokenizer) as server:
        yield server
