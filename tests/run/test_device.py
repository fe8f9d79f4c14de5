"""Which names of devices are taken."""

import pytest
import torch

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
