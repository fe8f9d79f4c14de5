"""Loader, loss, optimiser and schedule, the step, checkpoints; `pretrain` and `sft` (recipe sections 5, 7)."""
