"""Report: draws the report of a finished run again, or sets two runs side by side.

    python -m trainer.report --run_dir=runs/first
    python -m trainer.report --compare runs/first runs/second --output=compare.html

Reads what runs left in their directories, local or `gs://`; needs neither the model nor
the records. Runs of releases that kept no pictures get them by --predict, which needs
both.
"""

from __future__ import annotations

import logging

from absl import flags

from trainer import flags as shared
from trainer.errors import SeamlineError

_RUN_DIR = flags.DEFINE_string("run_dir", None, "directory of a finished run")
_COMPARE = flags.DEFINE_list(
    "compare", None, "two directories of finished runs, with a space or comma between"
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "HTML file to write (default: report.html of the run; compare.html here)",
)
_PREDICT = flags.DEFINE_bool(
    "predict", False, "predict validation examples anew, and keep them in the run"
)

log = logging.getLogger("seamline")


def main(argv: list[str]) -> None:
    """Flags, then one call."""
    if (_RUN_DIR.value is None) == (_COMPARE.value is None):
        raise SeamlineError(
            "--run_dir, --compare: give one of the two: --run_dir=RUN draws a report, "
            "--compare RUN RUN sets two runs side by side"
        )
    # `--compare A B`: absl leaves the second one among the positional arguments.
    run_dirs = [*(_COMPARE.value or ()), *argv] if _COMPARE.value else []
    if not run_dirs:
        shared.refuse_positional(argv)
    if _PREDICT.value:
        with shared.quiet_imports():
            from trainer import inspection
        for run_dir in run_dirs or [_RUN_DIR.value]:
            inspection.keep_examples(run_dir)
    if run_dirs:
        from trainer.results import compare

        output = _OUTPUT.value or "compare.html"
        written = compare.compare_runs(run_dirs, output)
    else:
        from trainer.results import report

        written = report.redraw(str(_RUN_DIR.value), _OUTPUT.value)
    log.info("Done: open %s", written)


if __name__ == "__main__":
    shared.run(main)
