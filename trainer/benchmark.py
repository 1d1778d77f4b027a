"""Benchmark: how fast the parts of Seamline are on this machine, as ratios of one run.

python -m trainer.benchmark --what=convert --dataset=/data/clothing-co-parsing
"""

from __future__ import annotations

from absl import flags

from trainer import flags as shared

shared.define_records_flags()
flags.adopt_module_key_flags(shared)

_WHAT = flags.DEFINE_enum(
    "what",
    "all",
    ["convert", "all"],
    "what to measure; convert: conversion beside reading photos and masks alone",
)
_JSON = flags.DEFINE_string("json", None, "file for the measurements (default: none)")
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "how often each is run, in turns; medians count", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer.benchmarks import conversion, measurements
    records = shared.records_arguments()
    measured = conversion.measure(
        dataset=records["dataset"],
        layout=records["layout"],
        record_size=records["record_size"],
        worker_count=records["workers"],
        repeats=_REPEATS.value,
    )
    measurements.publish(measured, path=_JSON.value)


if __name__ == "__main__":
    shared.run(main)
