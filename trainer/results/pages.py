"""Pages: the templates of `pages/`, and how numbers are printed on them."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import jinja2

_MISSING = "–"


def render(template: str, **values: Any) -> str:
    """One self-contained HTML page from a template of `pages/`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.results", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "signed": signed,
        "duration": duration,
        "setting": setting,
    }
    return environment.get_template(template).render(**values)


def number(value: Any, digits: int = 3) -> str:
    """A number as the report prints it: `0.123`, `1,234`, or a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """A share of 0..1 as `35 %`, `2.5 %` or `<0.1 %`."""
    if share is None or not math.isfinite(share):
        return _MISSING
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign: `+0.012`, `−0.340`, `0.000`."""
    if value is None or not math.isfinite(value):
        return _MISSING
    text = f"{abs(value):.{digits}f}"
    sign = "" if not float(text) else "+" if value > 0 else "−"
    return sign + text


def duration(seconds: float | None) -> str:
    """Seconds in words: `41.2 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return _MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def setting(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def address(content: bytes, kind: str = "png") -> str:
    """A picture as a `data:` address: PNG or JPEG bytes."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
