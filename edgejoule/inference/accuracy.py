"""How far the outputs of what was built are from the model's float32 outputs.

A fast engine that computes something else must show. The set-up process takes the reference from
the model before a backend casts it, and compares it with what the finished artefacts return for
the same inputs.

The relative error of a value `a` with reference `b` is

    |a - b| / max(|b|, 0.1 * rms(b over its tensor))

so that a value near zero is measured against a tenth of its tensor's root mean square and cannot
blow the figure up. With random weights an agreement says little: the classes lie close together,
and what rounds differently picks another one; `weights` stands in the figures for that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.accuracy_reference import Reference, reference_outputs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Accuracy", "OutputAccuracy", "Reference", "accuracy_note", "compare",
           "reference_outputs"]  # fmt: skip

FLOOR_OF_RMS = 0.1
DEFINITION = f"|a-b| / max(|b|, {FLOOR_OF_RMS} * rms(b)), b the float32 value"

_MEAN_NOTED = 0.05
_TOP1_NOTED = 0.99


@dataclass(frozen=True)
class OutputAccuracy:
    """One output of the model, over all input sets compared.

    Attributes:
        output: Position among the model's outputs.
        shape: Of one set.
        integer: Whether it holds whole numbers or truth values: compared by equality.
        max_relative_error: The largest (see the module); None for integers, and where the output
            has values that are not finite though the reference's are.
        mean_relative_error: The mean, None likewise.
        sqnr_db: Power of the reference over the power of the difference, in dB; None likewise,
            and where they are equal.
        top1_agreement: Share of rows of an output (N, C), C > 1, with the same largest entry;
            None for other shapes.
        top1_rows: How many rows.
        equal: Share of equal values, for integers; else None.
        not_finite: Values NaN or infinite where the reference has another value.
        reference_not_finite: Values of the reference that are NaN or infinite; left out of errors.
        values: How many values were compared.
    """

    output: int
    shape: tuple[int, ...]
    integer: bool
    max_relative_error: float | None
    mean_relative_error: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    top1_rows: int
    equal: float | None
    not_finite: int
    reference_not_finite: int
    values: int


@dataclass(frozen=True)
class Accuracy:
    """All outputs together; figures are None where there is no reference or nothing to compare.

    Attributes:
        how: What the reference is, or why there is none.
        weights: Where the model's weights came from (`pretrained`, `random`, `user`), None if
            not known.
        sets: How many input sets were compared.
        max_relative_error: The largest of any output.
        mean_relative_error: Over all values of all outputs.
        sqnr_db: The worst of any output.
        top1_agreement: Over all rows of all outputs of shape (N, C).
        top1_rows: How many rows.
        equal: Share of equal values of the outputs that hold integers; None without such.
        not_finite: Values NaN or infinite where the reference has another value.
        outputs: Each output.
    """

    how: str
    weights: str | None
    sets: int
    max_relative_error: float | None
    mean_relative_error: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    top1_rows: int
    equal: float | None
    not_finite: int
    outputs: tuple[OutputAccuracy, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the definition of the error and a note for the report."""
        plain = asdict(self)
        plain["outputs"] = [{**one, "shape": list(one["shape"])} for one in plain["outputs"]]
        return {**plain, "definition": DEFINITION, "note": accuracy_note(plain)}


def compare(reference: Reference, outputs: Iterable[Sequence[np.ndarray]]) -> Accuracy:
    """Compare outputs with the reference's.

    Args:
        reference: What `reference_outputs` returned.
        outputs: For each input set of the reference, in its order, what `Session.outputs` returns
            for it: float arrays. More sets than the reference has are not looked at.

    Raises:
        MeasurementError: Another number of sets or outputs, or another shape.
    """
    if not reference.outputs:
        return Accuracy(reference.how, reference.weights, 0, None, None, None, None, 0, None, 0, ())
    sums: list[_Sums] = []
    compared = 0
    for expected, found in zip(reference.outputs, outputs, strict=False):
        if len(found) != len(expected):
            raise MeasurementError(
                f"the built model returns {len(found)} outputs, the float32 model {len(expected)}",
                "build it again; if it stays so, report the backend's version",
            )
        sums = sums or [_Sums(index) for index in range(len(expected))]
        for total, wanted, value in zip(sums, expected, found, strict=True):
            total.add(wanted, value)
        compared += 1
    if compared < len(reference.outputs):
        raise MeasurementError(
            f"outputs of {compared} input sets were given, the reference has "
            f"{len(reference.outputs)}"
        )
    return _overall(reference, tuple(total.result() for total in sums))


def accuracy_note(accuracy: dict[str, Any]) -> str | None:
    """Return a sentence on what a reader must know of the outputs, None if they are close.

    Args:
        accuracy: What `Accuracy.to_json` returns, as it stands in a run.
    """
    top1, mean = accuracy.get("top1_agreement"), accuracy.get("mean_relative_error")
    equal, lost = accuracy.get("equal"), accuracy.get("not_finite") or 0
    said = []
    if lost:
        said.append(f"{lost} values are NaN or infinite where the float32 model's are not")
    if mean is not None and mean > _MEAN_NOTED:
        said.append(f"the values differ from the float32 model's by {100 * mean:.3g} % on average")
    if top1 is not None and top1 < _TOP1_NOTED:
        text = f"the top class is the float32 model's in {100 * top1:.1f} % of "
        text += f"{accuracy['top1_rows']} rows"
        if accuracy.get("weights") == "random":
            text += " (random weights: classes lie close together, so that says little)"
        said.append(text)
    if equal is not None and equal < _TOP1_NOTED:
        said.append(f"{100 * equal:.1f} % of the whole numbers are the float32 model's")
    return "; ".join(said) or None


class _Sums:
    """What is summed over the sets for one output."""

    def __init__(self, output: int) -> None:
        self.output = output
        self.shape: tuple[int, ...] = ()
        self.integer = False
        self.values = self.errors = self.rows = self.same_rows = 0
        self.equal = self.lost = self.undefined = 0
        self.largest = self.total = self.signal = self.noise = 0.0

    def add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        """Take in one input set."""
        import numpy as np

        if tuple(found.shape) != tuple(wanted.shape):
            raise MeasurementError(
                f"output {self.output} of the built model has shape {list(found.shape)}, "
                f"that of the float32 model {list(wanted.shape)}",
                "build it again; if it stays so, report the backend's version",
            )
        self.shape = tuple(int(size) for size in wanted.shape)
        self.values += wanted.size
        self.integer = wanted.dtype.kind in "iub"
        if self.integer:
            self.lost += int(np.count_nonzero(~np.isfinite(found)))
            self.equal += int(np.count_nonzero(wanted == found))
            return
        a, b = found.astype(np.float64), wanted.astype(np.float64)
        defined, finite = np.isfinite(b), np.isfinite(a)
        same = (a == b) | (np.isnan(a) & np.isnan(b))  # -inf of a mask is as good as a number
        self.undefined += int(np.count_nonzero(~defined))
        self.lost += int(np.count_nonzero(~finite & ~same))
        both = defined & finite
        if both.any():
            floor = FLOOR_OF_RMS * float(np.sqrt(np.mean(np.square(b[defined]))))
            difference = np.abs(a[both] - b[both])
            scale = np.maximum(np.abs(b[both]), floor)
            # A tensor of zeros has no scale: any difference from it is a whole one.
            error = np.where(difference == 0, 0.0, difference / np.where(scale == 0, 1.0, scale))
            error[(scale == 0) & (difference > 0)] = 1.0
            self.largest = max(self.largest, float(error.max()))
            self.total += float(error.sum())
            self.errors += error.size
            self.signal += float(np.square(b[both]).sum())
            self.noise += float(np.square(difference).sum())
        if a.ndim == 2 and a.shape[1] > 1:
            whole = ~np.isnan(a).any(axis=1) & ~np.isnan(b).any(axis=1)
            self.rows += len(a)
            self.same_rows += int(np.count_nonzero((a.argmax(axis=1) == b.argmax(axis=1)) & whole))

    def result(self) -> OutputAccuracy:
        """Return the figures."""
        import math

        known = self.errors > 0 and not self.lost
        decibels = None
        if known and self.noise > 0 and self.signal > 0:
            decibels = 10.0 * math.log10(self.signal / self.noise)
        return OutputAccuracy(
            output=self.output,
            shape=self.shape,
            integer=self.integer,
            max_relative_error=self.largest if known else None,
            mean_relative_error=self.total / self.errors if known else None,
            sqnr_db=decibels,
            top1_agreement=self.same_rows / self.rows if self.rows else None,
            top1_rows=self.rows,
            equal=self.equal / self.values if self.integer and self.values else None,
            not_finite=self.lost,
            reference_not_finite=self.undefined,
            values=self.values,
        )


def _overall(reference: Reference, outputs: tuple[OutputAccuracy, ...]) -> Accuracy:
    """Put the outputs together."""
    floats = [one for one in outputs if not one.integer and one.values]
    integers = [one for one in outputs if one.integer and one.values]
    lost = sum(one.not_finite for one in outputs)
    largest = [one.max_relative_error for one in floats if one.max_relative_error is not None]
    means = [
        (one.mean_relative_error, one.values - one.reference_not_finite)
        for one in floats
        if one.mean_relative_error is not None
    ]
    decibels = [one.sqnr_db for one in floats if one.sqnr_db is not None]
    count = sum(weight for _, weight in means)
    rows = sum(one.top1_rows for one in outputs)
    agreeing = sum((one.top1_agreement or 0.0) * one.top1_rows for one in outputs)
    whole = sum(one.values for one in integers)
    equal = sum((one.equal or 0.0) * one.values for one in integers)
    # A figure over what is left beside NaN would hide them.
    return Accuracy(
        how=reference.how,
        weights=reference.weights,
        sets=len(reference.outputs),
        max_relative_error=max(largest) if largest and not lost else None,
        mean_relative_error=(
            sum(mean * weight for mean, weight in means) / count if count and not lost else None
        ),
        sqnr_db=None if lost else min(decibels, default=None),
        top1_agreement=agreeing / rows if rows else None,
        top1_rows=rows,
        equal=equal / whole if whole else None,
        not_finite=lost,
        outputs=outputs,
    )
