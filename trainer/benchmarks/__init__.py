"""Measurements of Seamline itself: ratios within one run on one machine."""
