"""Losses over pairs of responses, pure (recipe section 8; DPO is our option). Shapes: P pairs."""

import torch.nn.functional as F
from torch import Tensor


def pairwise_loss_sum(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Sum of -log sigmoid(chosen - rejected) over scores (P): the logistic (Bradley-Terry) loss."""
    return F.softplus(rejected - chosen).sum()


def centring_loss_sum(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Sum of (chosen + rejected)² over scores (P): the comparisons alone leave a constant free for every prompt, and a
    model that fills it at will hands PPO rewards that differ more between prompts than between answers (Eisenstein et
    al. 2023, equation 3)."""
    return (chosen + rejected).square().sum()


def dpo_loss_sum(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Sum over pairs of the same loss on beta * log(policy / reference) (Rafailov et al. 2023, equation 7).

    All (P): log-probabilities of whole responses, end token included, summed over their tokens.
    """
    return pairwise_loss_sum(beta * (chosen - reference_chosen), beta * (rejected - reference_rejected))
