"""Seamline: a folder of photos and masks in, a trained segmentation model out."""

__version__ = "0.1.0"
