"""Training curves: one row per logged step, written as CSV that `dvc plots` reads."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from cfpp.files import replacing

Row = dict[str, float]


class Curves:
    """Rows in memory, mirrored to a file as they arrive.

    The rows travel in the checkpoint, so a resumed run goes on from the rows it had at the checkpoint and the
    file loses those written after it.

    Args:
        path: CSV file to mirror to, or None.
        rows: the rows so far, as `rows` gave them.
    """

    def __init__(self, path: Path | None, rows: Sequence[Mapping[str, float]] = ()) -> None:
        self.path = path
        self.rows: list[Row] = [dict(row) for row in rows]
        self._columns: list[str] = []
        self._write_all()

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Append the figures of ``step`` (steps done)."""
        row: Row = {"step": step, **figures}
        self.rows.append(row)
        if self.path is None:
            return
        if set(row) - set(self._columns):  # a new column changes the header
            self._write_all()
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _write_all(self) -> None:
        self._columns = columns_of(self.rows)
        if self.path is not None:
            write_csv(self.path, self.rows)


def columns_of(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """``step``, then every other column in the order in which it first occurs."""
    return list(dict.fromkeys(["step", *(name for row in rows for name in row)]))


def write_csv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows, wide, atomically; a figure that a row lacks is left empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
