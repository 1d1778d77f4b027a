"""`--xla`: when XLA compiles the training step."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import tensorflow as tf

from trainer import recipes
from trainer.engine import compilation

LATERAL = dataclasses.replace(recipes.RECIPES["default"], decoder="lateral")
PIX2PIX = dataclasses.replace(recipes.RECIPES["tutorial"], decoder="pix2pix")


def settled(capture: pytest.LogCaptureFixture, *where: object) -> tuple[bool, str]:
    """What `--xla=auto` becomes, and what it says."""
    with capture.at_level(logging.INFO, "seamline"):
        found = compilation.settle("auto", *where)
    return found, capture.messages[-1]


@pytest.mark.parametrize(("ratio", "on"), [(0.6, False), (1.05, False), (1.4, True)])
def test_auto_is_what_is_faster_here_and_says_by_how_much(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    on: bool,
) -> None:
    monkeypatch.setattr(compilation, "speed", lambda precision: ratio)
    found, told = settled(caplog, LATERAL, 1, "float32")
    assert found is on
    word = "on" if on else "off"
    assert told.startswith(f"XLA: {word}, since")
    assert f"{ratio:.2f} times" in told


def test_auto_does_not_measure_what_xla_cannot_compile(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "speed", lambda precision: pytest.fail("measured"))
    found, told = settled(caplog, PIX2PIX, 2, "float32")
    assert not found
    assert told.startswith("XLA: off; XLA compiles the step of one device")
    found, told = settled(caplog, LATERAL, 1, "bfloat16")
    assert not found
    assert told.startswith("XLA: off; on a CPU, XLA cannot compile")


def test_auto_is_off_where_too_few_steps_pay_for_compiling(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = iter([3.0])
    monkeypatch.setattr(compilation, "speed", lambda precision: next(ratios))
    found, told = settled(caplog, LATERAL, 1, "float32", None, 2299)
    assert not found
    assert told.startswith("XLA: off; compiling takes a minute that 2299 steps")
    found, _ = settled(caplog, LATERAL, 1, "float32", None, 2300)
    assert found
    assert compilation.settle("true", LATERAL, 1, "float32", None, 1) is True


@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_goes_on_is_compiled_as_it_began(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(compilation, "speed", lambda precision: pytest.fail("measured"))
    found, told = settled(caplog, LATERAL, 1, "float32", before, 1)
    assert found is before
    assert told == f"XLA: {'on' if before else 'off'}, as this run began"
    found, told = settled(caplog, LATERAL, 2, "float32", before)
    assert not found
    assert "XLA compiles the step of one device" in told


def test_the_ratio_says_how_much_faster_the_compiled_stage_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        compilation, "_stage", lambda dtype, xla: lambda: tf.constant(float(xla))
    )
    seconds = {0.0: 3.0, 1.0: 2.0}
    monkeypatch.setattr(compilation, "_seconds", lambda step: seconds[float(step())])
    assert compilation.speed("float32") == 1.5


def test_what_is_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "speed", lambda precision: pytest.fail("measured"))
    assert compilation.settle("true", LATERAL, 1, "float32") is True
    assert compilation.settle("false", LATERAL, 1, "float32") is False


def test_both_ways_to_run_a_stage_compute_the_same_and_are_compared() -> None:
    plain, compiled = (compilation._stage("float32", xla) for xla in (False, True))
    assert float(plain()) == pytest.approx(float(compiled()), rel=1e-4, abs=1e-6)
    assert not plain.get_concrete_function().function_def.attr["_XlaMustCompile"].b
    assert compiled.get_concrete_function().function_def.attr["_XlaMustCompile"].b
    assert compilation.speed("float32") > 0
