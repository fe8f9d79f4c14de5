"""Twenty steps of a tiny model on fixed numbers give the committed losses: a change of the arithmetic shows here.

The curve is of our own making (`python tests/golden/test_loss_curve.py` writes it anew). Where it changes, the commit
says why.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.training.loader import Batches, StreamRows
from danlu.training.optimizer import cosine_factor, make_optimizers, set_learning_rate
from danlu.training.optimizer_config import OptimizerConfig
from danlu.training.step import Forward, LossFunction, accumulate_gradients, clip_and_step

CURVE = Path(__file__).with_name("loss_curve.json")
STEPS, VOCABULARY = 20, 96


@dataclasses.dataclass
class SyntheticShards:
    """Documents of a small grammar: each token follows from the one before, with a little noise; 0 ends a document."""

    tokens: np.ndarray
    offsets: np.ndarray
    folder: Path = Path("synthetic")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def synthetic_shards() -> SyntheticShards:
    # A generator written out, so that no library's random numbers are part of the golden file.
    state = 12345
    documents = []
    for _ in range(40):
        document, token = [], 1
        for _ in range(50):
            state = (1103515245 * state + 12345) % 2**31
            token = 1 + (5 * token + (state >> 16) % 4) % (VOCABULARY - 1)
            document.append(token)
        documents.append([*document, 0])
    return SyntheticShards(np.concatenate(documents), np.cumsum([0, *(len(document) for document in documents)]))


def fixed_model() -> Transformer:
    shape = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    model = Transformer(shape)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() == 2:
                waves = torch.arange(parameter.numel(), dtype=torch.float64).mul(number + 1.7).sin()
                parameter.copy_(0.1 * waves.view_as(parameter))
            else:
                parameter.fill_(float(parameter[0] == 1.0))
    return model


def curve() -> dict[str, list[float]]:
    """Losses and gradient norms of 20 updates: float32, no compiler, 4 rows in micro-batches of 2."""
    model, config = fixed_model().train(), OptimizerConfig()
    optimizers = make_optimizers(model, config)
    loss_function = LossFunction(model, Forward(model, compiled=False, bf16=False))
    rows = StreamRows(synthetic_shards(), 24, STEPS * 4, 1, seed=1)  # type: ignore[arg-type]
    batches = Batches(rows, batch_size=4, micro_batch_size=2)
    losses, norms = [], []
    for step, micro_batches in enumerate(batches):
        set_learning_rate(optimizers, config, 0.01, cosine_factor(step, 4, STEPS, 0.1))
        loss, _ = accumulate_gradients(loss_function, micro_batches)
        losses.append(loss)
        norms.append(clip_and_step(model.parameters(), optimizers, config.max_grad_norm))
    batches.close()
    return {"loss": losses, "grad_norm": norms}


def test_the_loss_curve_is_the_committed_one() -> None:
    golden, now = json.loads(CURVE.read_text()), curve()
    assert len(golden["loss"]) == STEPS
    assert golden["loss"][-1] < golden["loss"][0] - 0.4, "a curve that does not fall would prove little"
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):
        for step, (value, expected) in enumerate(zip(now[name], golden[name], strict=True), start=1):
            assert value == pytest.approx(expected, rel=tolerance), f"{name} leaves the golden curve at step {step}"


if __name__ == "__main__":
    CURVE.write_text(json.dumps(curve(), indent=1) + "\n")
    print(CURVE, file=sys.stderr)
