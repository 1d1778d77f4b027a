"""Convert: photos and masks -> sharded TFRecords and a dataset card.

python -m trainer.convert --dataset=/data/clothing-co-parsing --records_dir=records/ccp
python -m trainer.convert --verify --records_dir=records/ccp
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


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    shared.refuse_positional(argv)
    with shared.quiet_imports():
        from trainer.data import card, conversion
    arguments = shared.records_arguments()
    if not _VERIFY.value:
        conversion.prepare(**arguments)
        return
    if not arguments["records_dir"]:
        raise SeamlineError("--verify needs --records_dir: the folder to check")
    checked = card.verify(arguments["records_dir"])
    logging.getLogger("seamline").info(
        "Verified: %s: %d examples, fingerprint %s",
        arguments["records_dir"],
        sum(part["examples"] for part in checked.splits.values()),
        checked.fingerprint[:12],
    )


if __name__ == "__main__":
    shared.run(main)
