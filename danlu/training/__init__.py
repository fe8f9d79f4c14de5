"""Loader, loss, optimiser and schedule, the step, checkpoints; the stages `pretrain` and `sft` (recipe sections 5, 7)."""
