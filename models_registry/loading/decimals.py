"""Whole columns of a decimal field: the codes of their values, and SQL that finds values without one.

What binary floats cannot decide beyond doubt (a float within rounding of the tolerance's edge, a decimal wider than 64
bits) the field itself decides, value by value; such values are rare.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa

from models_registry.loading.arrow import Codes, Integers, Mask, Numbers, bounded, filled
from serving.formats.layouts import BadValue, DecimalNumber

# Above this a 64-bit float has no fraction left; every layout's numbers lie below it.
FLOAT_EXACT = float(2**53)


class DecimalColumn:
    """The arithmetic of one decimal field, in integers of its smallest place."""

    def __init__(self, kind: DecimalNumber) -> None:
        self.kind = kind
        self.scale = 10**kind.places
        self.min = int(kind.min * self.scale)
        self.max = int(kind.max * self.scale)
        # With one value alone the step does not matter, and may be any size.
        self.step = int(kind.step * self.scale) if kind.steps else int(FLOAT_EXACT)

    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        """Return codes and bad rows; None for a column that holds no numbers."""
        if pa.types.is_integer(column.type):
            whole, bad = bounded(column, -(-self.min // self.scale), self.max // self.scale)
            return self._from_scaled(whole * self.scale, bad)
        if pa.types.is_floating(column.type):
            return self._from_floats(column)
        if pa.types.is_decimal32(column.type) or pa.types.is_decimal64(column.type):
            column = column.cast(pa.decimal128(column.type.precision, column.type.scale))
        if pa.types.is_decimal128(column.type) and column.type.scale - self.kind.places <= 18:
            return self._from_decimals(column)
        if pa.types.is_decimal(column.type):
            nothing = np.zeros(len(column), np.bool_)
            return self._decide(column, np.zeros(len(column), np.uint64), nothing, ~nothing)
        return None

    def _from_scaled(self, scaled: Integers, bad: Mask) -> tuple[Codes, Mask]:
        bad = bad | (scaled < self.min) | (scaled > self.max)
        codes, rest = np.divmod(np.where(bad, 0, scaled - self.min), self.step)
        return codes.astype(np.uint64), bad | (rest != 0)

    def _from_floats(self, column: pa.Array) -> tuple[Codes, Mask]:
        filled_up = filled(column, 0)
        values = filled_up.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values * self.scale
        bad = ~(np.abs(scaled) <= 2 * FLOAT_EXACT)
        scaled[bad] = self.min
        steps = np.rint((scaled - self.min) / self.step)
        away = np.abs(scaled - (self.min + steps * self.step))
        tolerance: Numbers | float = float(self.kind.float_tolerance * self.scale)
        if pa.types.is_float32(column.type):
            with np.errstate(over="ignore", invalid="ignore"):
                tolerance = tolerance + np.spacing(np.abs(filled_up)).astype(np.float64) * (self.scale / 2)
            tolerance = np.minimum(tolerance, float(self.kind.step * self.scale / 4))
        # More than all roundings above together; nearer to the tolerance than this, the layout decides.
        doubt = 8 * np.spacing(np.abs(scaled) + (abs(self.min) + 1))
        bad |= (away > tolerance + doubt) | (steps < 0) | (steps > self.kind.steps)
        doubtful = away >= tolerance - doubt
        if self.scale == 1:
            doubtful &= away != 0
        doubtful = ~bad & (doubtful | (scaled - self.min > FLOAT_EXACT / 2))
        codes = np.where(bad, 0, steps).astype(np.uint64)
        return self._decide(column, codes, bad, doubtful)

    def _from_decimals(self, column: pa.Array) -> tuple[Codes, Mask]:
        words = np.frombuffer(column.buffers()[1], np.int64)
        words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
        low, high = words[:, 0], words[:, 1]
        is_wide = high != low >> 63
        surplus = column.type.scale - self.kind.places
        if surplus <= 0:
            factor = 10**-surplus
            bad = is_wide | (low > int(FLOAT_EXACT) // factor) | (low < -(int(FLOAT_EXACT) // factor))
            return self._from_scaled(np.where(bad, 0, low) * factor, bad)
        scaled, rest = np.divmod(low, 10**surplus)
        codes, bad = self._from_scaled(scaled, is_wide | (rest != 0))
        return self._decide(column, codes, bad & ~is_wide, is_wide)

    def _decide(self, column: pa.Array, codes: Codes, bad: Mask, doubtful: Mask) -> tuple[Codes, Mask]:
        """Ask the layout about every doubtful value that is not null."""
        if column.null_count:
            doubtful = doubtful & column.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(doubtful)
        to_code = self._code_of_float32 if pa.types.is_float32(column.type) else self.kind.to_code
        for row, value in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            try:
                codes[row] = to_code(value)
            except BadValue:
                bad[row] = True
        return codes, bad

    def _code_of_float32(self, value: float) -> int:
        """Return the code of a value that was rounded to 32 bits: half of its last place is forgiven, too.

        Raises:
            BadValue: it has none.
        """
        half = Fraction(float(np.spacing(np.float32(abs(value))))) / 2
        step = Fraction(self.kind.step)
        exact = Fraction(value) - Fraction(self.kind.min)
        code = round(exact / step)
        tolerance = min(Fraction(self.kind.float_tolerance) + half, step / 4)
        if not 0 <= code <= self.kind.steps or abs(exact - code * step) > tolerance:
            raise BadValue(f"{value} is not a whole number of steps")
        return code

    def meant(self, column: pa.Array) -> pa.Array:
        """Return the numbers that a float32 column's values, all of this field, were before they were rounded."""
        codes, _ = self._from_floats(column)
        return pa.array(self.numbers(codes), mask=column.is_null().to_numpy(zero_copy_only=False))

    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        """Return SQL conditions that a value meets which surely has no code; what they leave open `codes` decides."""
        scaled = f"({value}::DOUBLE * {self.scale})"
        steps = f"round(({scaled} - {self.min}::DOUBLE) / {self.step}::DOUBLE)"
        # A little wider than the tolerance of `codes`, and than every rounding in these lines.
        rounding = f"(abs({scaled}) + {abs(self.min) + 1}::DOUBLE) * 4e-15"
        allowed = repr(float(self.kind.float_tolerance * self.scale) * 1.001 if pa.types.is_floating(column) else 0.0)
        if pa.types.is_float32(column):
            # Half of the last of 24 binary places, or a little more.
            allowed = f"{allowed}::DOUBLE + abs({scaled}) * {2.0**-23!r}"
        return [
            f"NOT isfinite({value}::DOUBLE)",
            f"{steps} < 0",
            f"{steps} > {self.kind.steps}",
            f"abs({scaled} - ({self.min}::DOUBLE + {steps} * {self.step}::DOUBLE)) > {allowed}::DOUBLE + {rounding}",
        ]

    def numbers(self, codes: Codes) -> Numbers:
        """Return the values of codes: correctly rounded quotients of whole numbers, so that equal values are equal."""
        found: Numbers = (self.min + codes.astype(np.int64) * self.step) / self.scale
        return found
