"""Range methods: by hand, as ONNX Runtime's calibrators find them, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import calibrate as theirs

from attar.engines.calibration import histogram, ranges
from attar.engines.calibration.entropy import LEVELS, center_bins, find_entropy_range
from attar.engines.calibration.histogram import Floats, Histogram
from attar.engines.calibration.mse import compute_errors, find_mse_range
from attar.engines.calibration.ranges import find_minmax_range, find_percentile_range
from attar.models.task import InMemory, Output, Split, SplitName, Tensor
from attar.models.views import iterate_spread
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import Calibrate
from tests.support.tasks import smoke

METHODS = {"minmax": find_minmax_range, "percentile": find_percentile_range, "entropy": find_entropy_range, "mse": find_mse_range}
ALL = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
numbers = st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=40)


def of(*batches: npt.ArrayLike) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(np.asarray(batch, np.float32))
    return made


# -- by hand ------------------------------------------------------------------------------------------------------------


def test_percentile_by_hand() -> None:
    """Of 0 to 1,999, 2 % are 40 values, 20 on either side: 20 to 1,979 stay, and the bins of width 1 end in 1,980."""
    assert find_percentile_range(of(np.arange(2000)), 98) == (20.0, 1980.0)
    assert find_percentile_range(of(np.arange(2000)), 100) == (0.0, 1999.0)


def test_a_percentile_that_is_none_is_refused() -> None:
    for percent in (0.0, 100.1, float("nan")):
        with pytest.raises(StageError, match=r"more than 0 .* 100"):
            find_percentile_range(of([1, 2]), percent)


def test_mse_by_hand() -> None:
    """2,000,000 values in [-1, 1] and a single 100. Cut off at h, it costs (100 - h)² / 2,000,000; the steps of (h + 1) / 255
    cost a twelfth of their square. Together least where (100 - h) / 1,000,000 = (h + 1) / (6 · 255²): at h = 27.3.
    """
    made = of(np.linspace(-1, 1, 2_000_000), [100])

    def cost(high: float) -> float:
        return (100 - high) ** 2 / 2e6 + ((high + 1) / 255) ** 2 / 12

    low, high = find_mse_range(made)
    assert low == pytest.approx(-1, abs=0.1)
    assert cost(high) < 1.01 * cost(27.3) < cost(100) / 3
    assert compute_errors(made, low, high)[0] == pytest.approx(cost(high), rel=0.1)
    assert compute_errors(made, -1, 100)[0] == pytest.approx(cost(100), rel=0.1)


def test_entropy_by_hand() -> None:
    """10,000 values in [-1, 1] and a single 100: bins are 1/8 wide. No window of fewer than 64 bins on either side is tried; up
    to 127 every bin is a level of its own, so that nothing but the outlier is lost. The window's upper end has a bin more.
    """
    low, high = find_entropy_range(of(np.random.default_rng(0).triangular(-1, 0, 1, 10_000), [100]))
    assert -1 <= low < -0.9
    assert 65 / 8 <= high <= 128 / 8


def test_errors_by_hand() -> None:
    """In steps of 1, of 0 to 255: the middles of the bins of width 1/8 lie 1/16, 3/16, 5/16 and 7/16 from the nearest step."""
    made = of(np.arange(0, 255, 1 / 8))
    assert made.width == 1 / 8
    assert compute_errors(made, 0.0, 255.0)[0] == pytest.approx((1 + 9 + 25 + 49) / 4 / 256, rel=1e-2)


# -- what holds always -------------------------------------------------------------------------------------------------


@ALL
@given(values=numbers)
def test_no_range_exceeds_what_was_seen(method: Any, values: list[float]) -> None:
    low, high = method(of(values))
    assert min(values) <= low <= high <= max(values)


@ALL
@given(values=numbers)
def test_low_stays_zero_after_a_relu(method: Any, values: list[float]) -> None:
    low, high = method(of(np.maximum(values, 0), [0]))
    assert low == 0
    assert high >= 0


@ALL
def test_degenerate_tensors(method: Any) -> None:
    assert method(of(np.zeros(100))) == (0, 0)
    assert method(of([3, 3])) == (3, 3)
    assert method(of([-2.5])) == (-2.5, -2.5)
    assert method(of([1e-38])) == (pytest.approx(1e-38), pytest.approx(1e-38))


@ALL
def test_a_heavy_outlier_is_cut_off_by_all_but_minmax(method: Any) -> None:
    high = method(of(np.random.default_rng(0).standard_normal(1_000_000), [100]))[1]
    assert (high == 100) == (method is find_minmax_range)
    assert high > 3


@given(numbers, st.floats(1, 100), st.floats(1, 100))
def test_a_higher_percentile_makes_no_less_room(values: list[float], one: float, other: float) -> None:
    made = of(values)
    narrow, wide = find_percentile_range(made, min(one, other)), find_percentile_range(made, max(one, other))
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]
    array = np.array(values, np.float32)
    assert ((array >= narrow[0]) & (array <= narrow[1])).mean() >= min(one, other) / 100 - 1e-9


@given(numbers)
def test_no_range_has_a_lower_error_than_that_of_mse(values: list[float]) -> None:
    made = of(values)
    least = compute_errors(made, *find_mse_range(made))[0]
    for method in METHODS.values():
        if method is find_minmax_range or made.low >= 0 or made.high <= 0:
            assert least <= compute_errors(made, *method(made))[0] * 1.05


# -- as ONNX Runtime ----------------------------------------------------------------------------------------------------

LIMIT = np.nextafter(np.float32(8), np.float32(0))
"""ONNX Runtime cuts [-max, max] into equal bins; with this maximum they are 2^-7 wide up to rounding, as ours are."""
SMALL = """
<ir_version: 8, opset_import: ["" : 18]>
small (float[batch,64] x) => (float[batch,64] total) <float[1] half = {0.5}> {
    small_x = Mul(x, half)
    positive = Relu(small_x)
    total = Add(x, positive)
}
"""
POWERS = {"small_x", "positive"}  # of which the maximum is half of LIMIT


class Skewed(smoke.ThreeNumbers):
    """512 rows of 64 values: normal ones, a thousandth of them heavy-tailed, the largest LIMIT."""

    inputs = {"x": Tensor("float32", ("batch", 64))}
    outputs = {"total": Output(("batch", 64), kind="values")}
    ranges = {"batch": (1, 32)}

    def split(self, name: SplitName) -> Split:
        random = np.random.default_rng(0)
        values = random.standard_normal((512, 64))
        values += (random.random(values.shape) < 1e-3) * random.standard_t(2, values.shape)
        values[0, :2] = -9, 9
        return InMemory({"x": np.clip(values.astype(np.float32), -LIMIT, LIMIT)}, {})


class CalibrationReader:
    """What they read from: whatever has this method."""

    def __init__(self) -> None:
        task = Skewed()
        self.batches: Iterator[Any] = iter([seen.inputs for seen in iterate_spread(task, task.split("train"), 512, 32)])

    def get_next(self) -> Any:
        return next(self.batches, None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ranges]:
    root, out = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("small-ranges")
    onnx.save(onnx.parser.parse_model(SMALL), root / "model.onnx")
    model = smoke.artifact(OnnxModel, root, {"graphs": ["model"]})
    stage = Calibrate(task=f"{__name__}:Skewed")
    return model.file(), smoke.artifact(Ranges, out, stage.run(out, onnx=model))


def calibrated(kind: Any, folder: Path, model: Path, **settings: Any) -> dict[str, tuple[float, float]]:
    calibrater = kind(model, augmented_model_path=str(folder / "augmented.onnx"), **settings)
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(CalibrationReader())
    data = calibrater.compute_data().data
    return {name: (float(np.ravel(each.lowest)[0]), float(np.ravel(each.highest)[0])) for name, each in data.items()}


def test_minmax_is_that_of_onnxruntime(tmp_path: Path, small: tuple[Path, Ranges]) -> None:
    assert small[1].compute_ranges() == calibrated(theirs.MinMaxCalibrater, tmp_path, small[0])


def test_percentiles_are_those_of_onnxruntime(tmp_path: Path, small: tuple[Path, Ranges]) -> None:
    """Not symmetric, as ours. Within two bins, one of theirs and one of ours: theirs end below the percentile, ours above."""
    for percent in (99.0, 99.99):
        found, expected = (
            small[1].compute_ranges("percentile", percent),
            calibrated(theirs.PercentileCalibrater, tmp_path, small[0], percentile=percent, num_bins=2048),
        )
        assert found.keys() == expected.keys()
        for name, ends in expected.items():
            assert found[name] == pytest.approx(ends, abs=2 * 2 * 12 / 2048), (name, percent)


def test_entropy_is_that_of_onnxruntime(tmp_path: Path, small: tuple[Path, Ranges]) -> None:
    """With 2,048 bins and 128 levels, on tensors whose bins are the same: the same bin."""
    expected = calibrated(
        theirs.EntropyCalibrater,
        tmp_path,
        small[0],
        num_bins=2048,
        num_quantized_bins=LEVELS,
        op_types_to_calibrate=["Relu"],
    )
    found = small[1].compute_ranges("entropy")
    assert expected.keys() == POWERS
    for name in POWERS:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
        assert found[name] != small[1].compute_ranges()[name]


def test_the_same_histogram_of_a_network_gives_the_same_range(digits_ranges: Ranges) -> None:
    """On bins that are not those that ONNX Runtime would have made: its own search, in ours."""
    histograms, _ = histogram.load_histograms(digits_ranges.root / "histograms.safetensors")
    found = digits_ranges.compute_ranges("entropy")
    for name in sorted(histograms)[::12]:
        counts, edges = symmetric(histograms[name])
        given = (counts.astype(np.int64), edges, np.float64(histograms[name].low), np.float64(histograms[name].high))
        collector = theirs.HistogramCollector("entropy", False, len(counts), LEVELS, None, "same")
        low, high = collector.get_entropy_threshold(given, LEVELS)
        assert found[name] == (low, high), name


def symmetric(each: Histogram) -> tuple[Floats, Floats]:
    counts, width = center_bins(each)
    return counts, np.arange(-(len(counts) // 2), len(counts) // 2 + 1, dtype=np.float64) * width


# -- of an artifact -----------------------------------------------------------------------------------------------------


def test_all_methods_name_the_same_tensors(digits_ranges: Ranges) -> None:
    widest = digits_ranges.compute_ranges()
    assert ranges.compute_ranges(digits_ranges.root / "histograms.safetensors", "minmax", 99.99) == widest
    for method in METHODS:
        found = digits_ranges.compute_ranges(method)
        assert found.keys() == widest.keys()
        assert all(widest[name][0] <= low <= high <= widest[name][1] for name, (low, high) in found.items())


def test_an_unknown_method(digits_ranges: Ranges) -> None:
    with pytest.raises(StageError, match=r"'percentil'.*'percentile'"):
        digits_ranges.compute_ranges("percentil")
