"""Encoders, the U-Net and its losses."""
