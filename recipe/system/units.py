"""Numbers for people: counts, bytes and time with a unit that suits them."""

DAY = 86_400  # seconds


def count(number: float) -> str:
    """A count with its unit: 4.2 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f}"


def byte_size(number: float) -> str:
    """Bytes with their unit: 1.2 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def time_span(seconds: tuple[float, float]) -> str:
    """A range of time in the unit that suits its end: 2.1 to 2.6 minutes."""
    low, high = seconds
    for unit, factor in (("days", DAY), ("hours", 3600), ("minutes", 60)):
        if high >= 2 * factor:
            return f"{_range(low / factor, high / factor, 1)} {unit}"
    return f"{_range(low, high, 0)} seconds"


def _range(low: float, high: float, digits: int) -> str:
    first, last = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return first if first == last else f"{first} to {last}"
