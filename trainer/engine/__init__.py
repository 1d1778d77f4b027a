"""Devices, checkpoints, the training loop and scores."""
