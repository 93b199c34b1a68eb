"""Numbers for people: bytes, counts and times with a unit."""

from __future__ import annotations


def nbytes(n: float) -> str:
    """'640 B', '12.3 KB', '4.00 MB' (powers of 1024)."""
    return _scaled(n, 1024, ("B", "KB", "MB", "GB", "TB"))


def count(n: float) -> str:
    """'640', '12.3k', '4.00M' (powers of 1000)."""
    return _scaled(n, 1000, ("", "k", "M", "G", "T")).replace(" ", "")


def seconds(t: float) -> str:
    """'850 ns', '12.3 us', '4.00 ms', '1.20 s'."""
    return _scaled(t * 1e9, 1000, ("ns", "us", "ms", "s"))


def plural(n: int, what: str) -> str:
    """'1 launch', '3 launches'."""
    return f"{n} {what}" if n == 1 else f"{n} {what}es" if what.endswith("ch") else f"{n} {what}s"


def _scaled(n: float, base: int, names: tuple[str, ...]) -> str:
    power = 0
    while round(n) >= base and power < len(names) - 1:
        n, power = n / base, power + 1
    digits = 0 if power == 0 or n >= 100 else 1 if n >= 10 else 2
    return f"{n:.{digits}f} {names[power]}"
