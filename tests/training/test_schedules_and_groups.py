"""Learning-rate schedules are the report's formulas, and every weight has exactly one optimiser group."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from danlu.model.transformer import Transformer
from danlu.training.optimizer import GAINS, constant_factor, cosine_factor, make_optimizers, set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig

MakeModel = Callable[..., Transformer]


def test_the_cosine_rises_falls_by_half_at_its_middle_and_ends_at_its_floor() -> None:
    factors = [cosine_factor(step, 10, 110, 0.1) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[35] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert all(after < before for before, after in itertools.pairwise(factors[10:]))


def test_the_cosine_without_warmup_begins_at_its_peak_and_stays_at_its_floor_after_the_end() -> None:
    assert cosine_factor(0, 0, 50, 0.1) == 1.0
    assert cosine_factor(80, 0, 50, 0.1) == pytest.approx(0.1)
    assert cosine_factor(3, 5, 4, 0.1) == pytest.approx(0.8), "a warm-up longer than the run is followed as it is"


def test_the_constant_rate_rises_and_stays() -> None:
    assert [constant_factor(step, 4, 10, 0.0) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_the_constant_rate_falls_to_nothing_over_its_last_share() -> None:
    factors = [constant_factor(step, 0, 10, 0.4) for step in range(11)]
    assert factors == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_has_one_group_and_only_matrices_decay(tiny_model: MakeModel, name: Any, tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    config = OptimizerConfig(name=name, weight_decay=0.1)
    optimizers = make_optimizers(model, config)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for label, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and not label.startswith("embed_tokens")
        assert decays[id(parameter)] == (0.1 if matrix else 0.0), label


def test_the_norms_weights_may_be_a_group_of_their_own(tiny_model: MakeModel) -> None:
    model = tiny_model()
    (optimizer,) = make_optimizers(model, OptimizerConfig(), gains_apart=True)
    owned = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    (gains,) = (group for group in optimizer.param_groups if group.get("name") == GAINS)
    norms = {id(p) for module in model.modules() if "RMSNorm" in type(module).__name__ for p in module.parameters()}
    assert {id(parameter) for parameter in gains["params"]} == norms
    assert gains["weight_decay"] == 0.0


def test_muon_takes_the_matrices_of_the_blocks_alone(tiny_model: MakeModel) -> None:
    model = tiny_model()
    _, muon = make_optimizers(model, OptimizerConfig(name="muon"))
    assert isinstance(muon, torch.optim.Muon)
    taken = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    assert taken == {id(p) for name, p in model.named_parameters() if name.startswith("layers.") and p.dim() == 2}


def test_the_numbers_of_adamw_are_the_recipes(tiny_model: MakeModel) -> None:
    (optimizer,) = make_optimizers(tiny_model(), OptimizerConfig())
    for group in optimizer.param_groups:
        assert group["betas"] == (0.9, 0.95)
        assert group["eps"] == 1e-8


def test_each_optimizer_follows_its_own_peak(tiny_model: MakeModel) -> None:
    config = OptimizerConfig(name="muon", muon_learning_rate=0.02)
    optimizers = make_optimizers(tiny_model(), config)
    set_learning_rate(optimizers, config, peak=0.004, factor=0.5)
    assert {group["lr"] for group in optimizers[0].param_groups} == {0.002}
    assert {group["lr"] for group in optimizers[1].param_groups} == {0.01}


def test_one_update_is_adamws_formula(tiny_model: MakeModel) -> None:
    """The first update of AdamW moves each weight by the rate, after decay, against the sign of its gradient."""
    model = tiny_model()
    optimizers = make_optimizers(model, OptimizerConfig())
    set_learning_rate(optimizers, OptimizerConfig(), peak=0.01, factor=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizers[0].step()
    for name, decay in (("lm_head.weight", 0.1), ("norm.weight", 0.0), ("embed_tokens.weight", 0.0)):
        expected = before[name] * (1 - 0.01 * decay) - 0.01
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("numbers", [{"beta1": 1.0}, {"beta2": -0.1}, {"max_grad_norm": 0.0}])
def test_impossible_numbers_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        OptimizerConfig(**numbers)  # type: ignore[arg-type]
