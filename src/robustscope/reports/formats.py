"""How numbers and names are written for people: fractions become percent here and nowhere earlier."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NBSP = "\u00a0"
WITHHELD = "withheld"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as percent; a gap as a dash.

    Example:
        >>> percent(0.3144).replace(NBSP, " "), percent(None)
        ('31.4 %', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f}{NBSP}%"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Write an interval of fractions in percent, without the sign.

    Example:
        >>> interval(0.2731, 0.3568)
        '27.3–35.7'
    """
    if low is None or high is None:
        return "–"
    join = " to " if low < 0 else "–"
    return f"{100 * low:.{digits}f}{join}{100 * high:.{digits}f}".replace("-", "−")


def points(difference: Mapping[str, float | None] | None) -> str:
    """Write a difference of fractions in percentage points, with its interval.

    Example:
        >>> points({"value": -0.071, "low": -0.093, "high": -0.049}), points(None)
        ('−7.1 (−9.3 to −4.9)', '–')
    """
    if difference is None or difference["value"] is None:
        return "–"
    text = f"{round(100 * difference['value'], 1) + 0.0:+.1f}"
    if difference["low"] is not None and difference["high"] is not None:
        text += f" ({100 * difference['low']:.1f} to {100 * difference['high']:.1f})"
    return text.replace("-", "−")


def number(value: float | str | None, digits: int = 3) -> str:
    """Write a number with few digits; integers in groups of three.

    Example:
        >>> number(0.0313725), number(1234567), number(None)
        ('0.0314', '1,234,567', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def p_value(value: float | None) -> str:
    """Write a p-value: never as zero.

    Example:
        >>> p_value(0.0000012), p_value(0.0432)
        ('< 0.001', '0.043')
    """
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """Write a duration.

    Example:
        >>> duration(75.2), duration(4.25)
        ('1 min 15 s', '4.2 s')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def threat_name(threat: Mapping[str, Any]) -> str:
    """Write a threat model as norm and radius.

    Example:
        >>> threat_name({"norm": "linf", "epsilon": 8 / 255, "text": "linf:8/255"})
        'linf 8/255'
    """
    text = str(threat.get("text") or f"{threat['norm']}:{number(threat['epsilon'], 4)}")
    return text.replace(":", " ", 1)


def place(norm: str, epsilon: float | str) -> str:
    """Write a radius that has no text of its own; of a set that is not a ball, it is a factor of its sizes.

    Example:
        >>> place("l2", 0.25), place("patch:5,5", 0.5)
        ('l2 0.25', '0.5 × patch 5,5')
    """
    size = number(epsilon, 4)
    return f"{size} × {norm.replace(':', ' ', 1)}" if ":" in norm else f"{norm} {size}"


def parameters(given: Mapping[str, Any] | None) -> str:
    """Write hyper-parameters as name=value, in their order."""
    return ", ".join(f"{name}={value}" for name, value in (given or {}).items()) or "none"


def plain(text: Any) -> str:
    """Return text on one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(text)).strip()


def markdown(text: Any) -> str:
    r"""Return text that Markdown shows as it is: no tag, link, emphasis or table cell can be made from it.

    Example:
        >>> markdown("a|b <script>")
        'a\\|b &lt;script&gt;'
    """
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~!$])", r"\\\1", safe)


def native(value: Any) -> Any:
    """Return JSON-ready values: NumPy scalars unwrapped, gaps as None, infinities as text."""
    if isinstance(value, Mapping):
        return {str(key): native(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [native(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):
        return native(value.item())
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)
