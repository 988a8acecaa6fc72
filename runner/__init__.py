"""Contrastive-learning experiments on Slurm that survive preemption."""

__version__ = "0.1.0"
