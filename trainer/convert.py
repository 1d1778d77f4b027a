"""Convert: photos and masks -> sharded TFRecords, a dataset card and its pictures.

    python -m trainer.convert --dataset=/data/ccp --records_dir=records/ccp
    python -m trainer.convert --verify --records_dir=records/ccp

Killed at any moment, the same command goes on with the shards that are done.
"""

from __future__ import annotations

import logging

from absl import flags

from trainer import flags as shared
from trainer.errors import SeamlineError

shared.define_records_flags()
flags.adopt_module_key_flags(shared)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "re-read the records in --records_dir and check every byte"
)


_SHARD_INDEX = flags.DEFINE_integer(
    "shard_index",
    0,
    "which of --num_hosts hosts this is; it writes every num_hosts-th shard",
    lower_bound=0,
)
_NUM_HOSTS = flags.DEFINE_integer(
    "num_hosts",
    1,
    "hosts that share the conversion, each with its --shard_index; the last one done "
    "checks the others' shards and seals the dataset",
    lower_bound=1,
)


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    arguments = shared.records_arguments()
    if not _VERIFY.value:
        with shared.quiet_imports():
            from trainer import dataset
        dataset.prepare(
            **arguments,
            draw=True,
            shard_index=_SHARD_INDEX.value,
            num_hosts=_NUM_HOSTS.value,
        )
        return
    if not arguments["records_dir"]:
        raise SeamlineError("--verify needs --records_dir: the folder to check")
    with shared.quiet_imports():
        from trainer.data import verification
    checked = verification.verify(arguments["records_dir"])
    logging.getLogger("seamline").info(
        "Verified: %s: %d examples, fingerprint %s",
        arguments["records_dir"],
        sum(part["examples"] for part in checked.splits.values()),
        checked.fingerprint[:12],
    )


if __name__ == "__main__":
    shared.run(main)
