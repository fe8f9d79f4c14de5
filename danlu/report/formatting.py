"""Numbers as a reader likes them; a figure that is not there becomes a dash, never an error."""

import math
from typing import Any

MISSING = "–"


def is_number(value: Any) -> bool:
    """Whether `value` can be shown: a finite number that is not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count(value: Any) -> str:
    """12345 as 12,345."""
    return f"{value:,.0f}" if is_number(value) else MISSING


def short_count(value: Any) -> str:
    """4919232 as 4.92M: for headlines."""
    if not is_number(value):
        return MISSING
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def decimal(value: Any, digits: int = 3) -> str:
    """A number with a fixed number of digits, so that a column lines up; what rounds to 0 has no sign."""
    return f"{round(value, digits) + 0.0:,.{digits}f}" if is_number(value) else MISSING


def percent(value: Any, digits: int = 0) -> str:
    """A share between 0 and 1 in percent."""
    return f"{100 * value:.{digits}f}%" if is_number(value) else MISSING


def interval(item: Any, digits: int = 1) -> str:
    """The ends of an interval (`low`, `high`) in percent; nothing where there is none."""
    ends: list[Any] = [item.get(end) for end in ("low", "high")] if isinstance(item, dict) else [None]
    return "–".join(f"{100 * end:.{digits}f}" for end in ends) if all(is_number(end) for end in ends) else ""


def size(value: Any) -> str:
    """Bytes in decimal units, as disks count them."""
    if not is_number(value):
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.{0 if abs(value) >= 100 * factor else 1}f} {unit}"
    return f"{value:.0f} B"


def memory(value: Any) -> str:
    """Megabytes, in gigabytes from one on."""
    return size(value * 1e6) if is_number(value) else MISSING


def duration(value: Any) -> str:
    """Seconds as a person says them: 5.1 s, 14 min 05 s, 2 h 03 min."""
    if not is_number(value):
        return MISSING
    if value < 59.5:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


FILTERS = {
    function.__name__: function for function in (count, short_count, decimal, percent, interval, size, memory, duration)
}
"""What the templates call; jinja2 knows `count` as another name of `length`, which ours takes over."""
