"""Derives the polynomial coefficients of `dlc/codegen/math_tables.py`, and writes that file.

    python tools/minimax.py            # a minute or two: prints each fit's error and writes the table
    python tools/minimax.py exp log    # only shows these

Each row states a function g(z), an interval, a weight w(z) and a degree. The polynomial P is the one that minimises
max |w(z) (P(z) - g(z))|, found by Remez' exchange on a dense grid in 80 digits; w is chosen so that this is the
relative error of the whole formula in which P stands. Coefficients are rounded to the type one after the other, from
the constant term on, and the rest is fitted again each time, so that rounding costs next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpmath import mp, mpf

mp.dps = 80
OUT = Path(__file__).parent.parent / "dlc" / "codegen" / "math_tables.py"


@dataclass(frozen=True)
class Fit:
    """`degree` gives the degree of P for each column of the table: f32, f64, and mid (f64 arithmetic, f32 accuracy)."""

    g: Callable
    low: mpf
    high: mpf
    weight: Callable
    degree: dict[str, int]
    formula: str


LN2, ROOT = mp.log(2), mp.sqrt(mpf(1) / 2)
SPAN = LN2 * mpf("1.0003")  # exp reduces to steps of 2 ln 2, the boundary a little soft from rounding
HALF = LN2 / 2 * mpf("1.001")
QUARTER_TURN = mp.pi / 4 * mpf("1.0001")


def _log_s(z):
    s = mp.sqrt(z)
    return (mp.log((1 + s) / (1 - s)) / s - 2) / z


def _log2_s(z):
    s = mp.sqrt(z)
    return mp.log((1 + s) / (1 - s), 2) / s


S_MAX = ((1 / ROOT - 1) / (1 / ROOT + 1)) ** 2 * mpf("1.0001")

FITS: dict[str, Fit] = {
    "exp": Fit(lambda r: (mp.expm1(r) - r) / r**2, -SPAN, SPAN, lambda r: r**2 / mp.exp(r),
               {"f32": 5, "f64": 11}, "exp(r) = 1 + r + r^2 P(r), |r| <= ln 2"),
    "expm1": Fit(lambda r: (mp.expm1(r) - r) / r**2, -HALF, HALF, lambda r: r**2 / mp.expm1(r),
                 {"f32": 4, "f64": 9}, "expm1(r) = r + r^2 P(r), |r| <= ln(2) / 2"),
    "exp2": Fit(lambda r: mp.expm1(r * LN2) / r, mpf("-0.5001"), mpf("0.5001"), lambda r: r / mp.exp(r * LN2),
                {"f32": 4, "f64": 11, "mid": 6}, "2^r = 1 + r P(r), |r| <= 1/2"),
    "log": Fit(lambda r: (mp.log1p(r) - r + r**2 / 2) / r**3, ROOT - 1 - mpf("1e-6"), 1 / ROOT - 1 + mpf("1e-6"),
               lambda r: r**3 / mp.log1p(r),
               {"f32": 7, "mid": 7}, "log(1 + r) = r - r^2 / 2 + r^3 P(r), 1 + r between sqrt(1/2) and sqrt(2)"),
    "log_s": Fit(_log_s, mpf(0), S_MAX, lambda z: z / 2,
                 {"f64": 6}, "log((1 + s) / (1 - s)) = 2 s + s z P(z), z = s^2"),
    "log2": Fit(lambda r: mp.log1p(r) / LN2 / r - 1, ROOT - 1 - mpf("1e-6"), 1 / ROOT - 1 + mpf("1e-6"),
                lambda r: r / mp.log1p(r), {"f32": 9}, "log2(1 + r) = r + r P(r)"),
    "log2_s": Fit(_log2_s, mpf(0), S_MAX, lambda z: 1 / mpf(3), {"mid": 4}, "log2((1 + s) / (1 - s)) = s P(s^2)"),
    "log2_tail": Fit(lambda z: (_log2_s(z) - 2 / LN2 - 2 * z / (3 * LN2)) / z**2, mpf(0), S_MAX,
                     lambda z: z**2 * LN2 / 2, {"f64": 6},
                     "log2((1 + s) / (1 - s)) = 2 s / ln 2 + 2 s z / (3 ln 2) + s z^2 P(z), z = s^2"),
    "sin": Fit(lambda z: (mp.sin(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, mpf(0), QUARTER_TURN**2, lambda z: z,
               {"f32": 2, "f64": 5}, "sin(r) = r + r^3 P(r^2), |r| <= pi / 4"),
    "cos": Fit(lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, mpf(0), QUARTER_TURN**2, lambda z: z**2,
               {"f32": 2, "f64": 5}, "cos(r) = 1 - r^2 / 2 + r^4 P(r^2), |r| <= pi / 4"),
    "asin": Fit(lambda z: (mp.asin(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, mpf(0), mpf("0.25001"), lambda z: z,
                {"f32": 4, "f64": 11}, "asin(x) = x + x^3 P(x^2), |x| <= 1/2"),
    "atan": Fit(lambda z: (mp.atan(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, mpf(0), mpf(1), lambda z: z,
                {"f32": 8, "f64": 19}, "atan(x) = x + x^3 P(x^2), |x| <= 1"),
    "sinh": Fit(lambda z: (mp.sinh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, mpf(0), mpf("1.0001"), lambda z: z,
                {"f32": 3, "f64": 6}, "sinh(x) = x + x^3 P(x^2), |x| <= 1"),
    "erf": Fit(lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1, mpf(0), mpf("1.0001"), lambda z: mpf(1),
               {"f32": 6, "f64": 12}, "erf(x) = x + x P(x^2), |x| <= 1"),
    "erfc": Fit(lambda x: mp.log(mp.erfc(x), 2), mpf("0.9999"), mpf(4),
                lambda x: mp.erfc(x) * LN2 / mp.erf(x), {"f32": 5}, "erf(x) = 1 - 2^P(x), x from 1 to 4"),
    "erfc_wide": Fit(lambda x: mp.log(mp.erfc(x), 2), mpf("0.9999"), mpf(6),
                     lambda x: mp.erfc(x) * LN2 / mp.erf(x), {"f64": 20}, "erf(x) = 1 - 2^P(x), x from 1 to 6"),
}  # fmt: skip


def remez(zs: list, gs: list, ws: list, powers: range) -> tuple[list, mpf]:
    """Coefficients of z^p for p in `powers` that minimise max |w (P - g)| over the grid, and that error."""
    n = len(powers)
    # where the weight vanishes nothing can go wrong, and the equations would be singular
    kept = [j for j, w in enumerate(ws) if w > max(ws) * mpf("1e-4")]
    zs, gs, ws = ([column[j] for j in kept] for column in (zs, gs, ws))
    table = [[z**p for p in powers] for z in zs]
    reference = [round(i * (len(zs) - 1) / n) for i in range(n + 1)]
    for _ in range(30):
        a = mp.matrix(n + 1, n + 1)
        b = mp.matrix(n + 1, 1)
        for row, j in enumerate(reference):
            for col in range(n):
                a[row, col] = table[j][col]
            a[row, n] = (-1) ** row / ws[j]
            b[row] = gs[j]
        solution = mp.lu_solve(a, b)
        cs, level = list(solution)[:n], abs(solution[n])
        errors = [w * (mp.fdot(t, cs) - g) for t, g, w in zip(table, gs, ws, strict=True)]
        worst = max(map(abs, errors))
        if worst <= level * mpf("1.0005"):
            break
        peaks: list[int] = []
        for j, e in enumerate(errors):
            if peaks and (errors[peaks[-1]] > 0) == (e > 0):
                if abs(e) > abs(errors[peaks[-1]]):
                    peaks[-1] = j
            else:
                peaks.append(j)
        while len(peaks) > n + 1:  # one surplus goes at an end, two as the weakest pair
            if len(peaks) == n + 2:
                peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
            else:
                at = min(range(len(peaks) - 1), key=lambda i: max(abs(errors[peaks[i]]), abs(errors[peaks[i + 1]])))
                del peaks[at : at + 2]
        if len(peaks) < n + 1:
            raise ArithmeticError(f"only {len(peaks)} alternations of {n + 1}")
        reference = peaks
    return cs, worst


def fit(row: Fit, column: str) -> tuple[list[float], float]:
    """Rounded coefficients, constant term first, and log2 of the error that they reach."""
    degree = row.degree[column]
    count = 24 * (degree + 2)
    middle, radius = (row.low + row.high) / 2, (row.high - row.low) / 2
    zs = [middle - radius * mp.cos(mp.pi * (j + mpf("0.5")) / count) for j in range(count)]
    with mp.workdps(120):  # the formulas cancel next to 0
        gs, ws = [row.g(z) for z in zs], [abs(row.weight(z)) for z in zs]
    rounding = np.float32 if column == "f32" else np.float64

    def error(cs: list[float]) -> float:
        worst = max(w * abs(mp.polyval(cs[::-1], z) - g) for z, g, w in zip(zs, gs, ws, strict=True))
        return float(mp.log(worst, 2))

    best, done = None, []
    rest, weights = gs, ws
    for k in range(degree + 1):
        cs, _ = remez(zs, rest, weights, range(degree + 1 - k))
        rounded = [*done, *(float(rounding(mp.nstr(c, 40))) for c in cs)]
        if best is None or error(rounded) < error(best):
            best = rounded
        done = rounded[: k + 1]
        # what is left to fit, and its weight, in powers of z one lower
        rest = [(g - mpf(done[-1])) / z for g, z in zip(rest, zs, strict=True)]
        weights = [abs(w * z) for w, z in zip(weights, zs, strict=True)]
    return best, error(best)


def main(only: list[str]) -> None:
    lines = ['"""Polynomial coefficients, constant term first. Written by tools/minimax.py: change that, not this.',
             "", "Columns: f32, f64, and mid: float64 arithmetic where float32 accuracy is wanted. Beside each stands",
             "log2 of the relative error of the formula, rounding of its arithmetic apart.", '"""', "",
             "TABLES: dict[tuple[str, str], tuple[float, ...]] = {"]
    for name, row in FITS.items():
        if only and name not in only:
            continue
        lines.append(f"    # {row.formula}")
        for column in row.degree:
            cs, error = fit(row, column)
            print(f"{name} {column} degree {row.degree[column]}: 2^{error:.1f}", flush=True)
            text = f'    ("{name}", "{column}"): (  # 2^{error:.1f}\n'
            for i in range(0, len(cs), 4):
                text += "        " + ", ".join(map(repr, cs[i : i + 4])) + ",\n"
            lines.append(text + "    ),")
    if not only:
        OUT.write_text("\n".join([*lines, "}", ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
