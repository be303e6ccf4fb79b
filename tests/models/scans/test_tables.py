"""What is told of a table's columns and rows, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import attar
from attar.models.scans import tables
from attar.models.scans.tables import scan_table, scan_text_table
from attar.pipeline.core.errors import RecipeError


def write_csv(folder: Path, rows: list[str], name: str = "data.csv") -> Path:
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / name


def list_rows(samples: int = 40) -> list[str]:
    """Two classes, "NA" and "b", of several patients."""
    return [f"{n}.5,p{n // 2},text {n},{('NA', 'b')[n % 2]}" for n in range(samples)]


def test_rows_with_empty_texts_are_left_out_by_name(tmp_path: Path) -> None:
    """ "NA" may be a class."""
    empty = ["91.5,p90,text,", "92.5,,text,b", '93.5,p91,"  ",b', ",p92,text,b"]
    file = write_csv(tmp_path, ["size,patient,text,label", *list_rows(), *empty])
    numbers, texts = scan_table(file, None, None), scan_text_table(file, None, None)
    assert numbers.constants["CLASSES"] == texts.constants["CLASSES"] == ("NA", "b")
    assert set(numbers.samples) == {str(n) for n in (*range(40), 42)}
    assert set(texts.samples) == {str(n) for n in (*range(40), 43)}
    for findings, reasons in (
        (numbers, ("label is empty: row 41", "patient is empty: row 42")),
        (texts, ("text is empty: row 43",)),
    ):
        assert all(any(reason in line for line in findings.assumptions) for reason in reasons), findings.assumptions


def test_a_label_named_as_groups_are_leaves_the_other_column_of_groups(tmp_path: Path) -> None:
    rows = [f"{n}.5,p{n // 4},{('a', 'b')[n % 2]}" for n in range(40)]
    file = write_csv(tmp_path, ["size,patient_id,group", *rows])
    findings = scan_table(file, "group", None)
    assert "Rows with the same 'patient_id' stay in one split." in findings.assumptions


def test_a_label_that_was_found_is_no_column_of_groups(tmp_path: Path) -> None:
    file = write_csv(tmp_path, ["size,label", *(f"{n}.5,{n % 2}" for n in range(40))])
    with pytest.raises(RecipeError, match="--group names it too"):
        scan_table(file, None, "label")


def test_columns_of_dictionaries_are_read_as_their_values(tmp_path: Path) -> None:
    """Each group of rows has a dictionary of its own."""
    labels = pa.array([["a", "b", "c"][n // 20] for n in range(60)]).dictionary_encode()
    table = pa.table({"size": np.arange(60) / 2, "label": labels})
    with parquet.ParquetWriter(tmp_path / "data.parquet", table.schema) as writer:
        for start in range(0, 60, 20):
            rows = table.slice(start, 20)
            own = rows.column("label").cast(pa.string()).dictionary_encode()
            writer.write_table(rows.set_column(1, "label", own))
    assert scan_table(tmp_path / "data.parquet", None, None).constants["CLASSES"] == ("a", "b", "c")
    split = attar.TableSplit(tmp_path / "data.parquet", {"x": "size"}, {"y": "label"}, ("a", "b", "c"))
    assert split.take(np.array([0, 25, 59])).targets["y"].tolist() == [0, 1, 2]


def test_large_numbers_are_normalized_by_what_a_network_reads(tmp_path: Path) -> None:
    """Times in seconds, an hour apart, and one number beyond float32."""
    rows = [f"{1_700_000_000 + 3600 * n},{'1e39' if n == 5 else n},{'ab'[n % 2]}" for n in range(40)]
    file = write_csv(tmp_path, ["time,other,label", *rows])
    findings = scan_table(file, None, None)
    assert any("other is empty or no finite float32: row 6" in line for line in findings.assumptions)
    means, deviations = findings.constants["MEANS"], findings.constants["DEVIATIONS"]
    assert isinstance(means, tuple)
    assert isinstance(deviations, tuple)
    rows_read = np.array([int(name) for name in findings.samples])[findings.splits["train"]]
    time = 1.7e9 + 3600 * rows_read
    assert abs(time.mean() - float(means[0])) < float(deviations[0]) / 100  # float32 has 128 s there
    assert np.isfinite([float(each) for each in (*means, *deviations)]).all()


@pytest.mark.parametrize(
    ("mean", "deviation", "rounded"),
    [(1_700_000_123.4, 1000, 1_700_000_123), (0.123456, 1, 0.123), (123.456, 456.0, 123.5), (-7.0, 1e-9, -7.0)],
)
def test_a_mean_is_rounded_to_a_thousandth_of_the_deviation(mean: float, deviation: float, rounded: float) -> None:
    assert tables.round_mean(mean, deviation) == rounded
