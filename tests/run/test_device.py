"""Which names of devices are taken, and when products are in bfloat16."""

import itertools

import pytest
import torch

from danlu.run import device
from danlu.run.device import pick_device
from danlu.run.errors import UserError


@pytest.mark.parametrize("name", ["", "meta", "cpu:0", "mps", "CUDA", "cuda:", "cuda:-1", "cuda:x", "gpu", "cpu\n"])
def test_another_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="unknown device") as error:
        pick_device(name)
    assert "\n" not in str(error.value)


def test_the_processor_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(UserError, match="cuda:99"):
        pick_device("cuda:99")


def test_bfloat16_is_left_to_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, product = torch.device("cpu"), torch.ones(4, 4)
    for is_there, wanted in itertools.product((False, True), repeat=2):
        monkeypatch.setattr(device, "has_bfloat16", lambda kind, is_there=is_there: is_there)
        with device.bfloat16_products(cpu, wanted):
            assert ((product @ product).dtype == torch.bfloat16) == (is_there and wanted)
