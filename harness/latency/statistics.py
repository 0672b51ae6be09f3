"""Raw times → percentiles with intervals, ratios between engines, and whether to believe them.

Pure functions over the timings table; what they return is ``latency`` of results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .settings import SERIES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Floats = np.ndarray[Any, np.dtype[np.float64]]

PERCENTILES = (50, 90, 95, 99)
UNSTABLE_SPREAD = 0.10
"""Relative spread of e2e above which a series is marked unstable; see :func:`summarise`."""
CONFIDENCE = 0.95
RESAMPLES = 1999
SAME = ("hardware", "provider", "threads")
"""What must be the same of two measurements for their times to be compared."""


def summarise(timings: pd.DataFrame) -> list[dict[str, Any]]:
    """Statistics of every series of a timings table; warm-ups do not count.

    TPOT, the time per output token of one request, is (e2e - TTFT) / (tokens out - 1), as vLLM and
    MLPerf define it; ITL are the single gaps between tokens, of all requests together. Percentiles
    interpolate linearly, so p99 of few requests is near the slowest.

    Intervals of percentiles are made of order statistics (the sign test inverted, exact for any
    distribution; Conover 1999, section 3.2); an end that so few requests cannot bound is None. Gaps
    of one request are not independent, so the interval of an ITL percentile is a bootstrap over
    requests.

    A series is *unstable* when (p90 - p10) / 2.563 of its e2e exceeds :data:`UNSTABLE_SPREAD` of
    the median. pyperf warns when the standard deviation exceeds 10 % of the mean; the distance of
    these percentiles, 2.563 standard deviations of a normal distribution, takes its place so that
    one preempted request in ten does not condemn a series.

    Returns:
        One dict a series, in order of appearance: the columns of :data:`.settings.SERIES`;
        ``ttft_ms_p50`` and p90, p95, p99, the same of ``tpot``, ``itl`` and ``e2e``;
        ``intervals`` of each, {key: [low, high]}, 95 %; ``tokens_per_s``, output tokens of all rows
        over the time that the requests took; n (requests); unstable; threads, hardware, load_1m
        and clock_mhz (medians), peak_bytes; ``ttft_floor_ms`` and ``token_floor_ms``; ``ratios``
        of :func:`ratios`. Times in milliseconds; what is not known is None.
    """
    rows = []
    counted = timings[~timings["warmup"].astype(bool)]
    # Warm-ups have the engines in the order that was asked for; later rounds rotate it.
    for key, every in timings.groupby(list(SERIES), sort=False):
        series = every[~every["warmup"].astype(bool)]
        if series.empty:
            continue
        row: dict[str, Any] = dict(zip(SERIES, key, strict=True))
        intervals: dict[str, list[float | None]] = {}
        for label, milliseconds in _figures(series).items():
            for percent in PERCENTILES:
                name = f"{label}_ms_p{percent}"
                row[name], intervals[name] = _percentile(milliseconds, percent)
        n, tokens = len(series), row["batch"] * row["output_tokens"]
        row |= {
            "n": n,
            "unstable": _spread(series["e2e_s"].to_numpy()) > UNSTABLE_SPREAD,
            "tokens_per_s": n * tokens / float(series["e2e_s"].sum()),
            "intervals": intervals,
            **_circumstances(series),
        }
        rows.append(row)
    for row in rows:
        row["ratios"] = ratios(counted, row, rows) if row["engine"] == "onnxruntime" else []
    return rows


def ratios(
    counted: pd.DataFrame, ours: dict[str, Any], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """How much faster the series *ours* is than every torch series of the same request.

    Engines took turns, so that the same iteration of two engines met the same moment: the interval
    is a percentile bootstrap over pairs of them.

    Returns:
        One dict for each of TTFT and TPOT and each other engine: ``figure``, ``engine``,
        ``format``, ``ratio`` (their median over ours; above 1 ours is faster), ``low``, ``high``.
    """
    shape = ("model", "provider", "batch", "prompt_tokens", "output_tokens")
    found = []
    mine = _figures(_select(counted, ours))
    for row in rows:
        if row["engine"] == "onnxruntime" or any(row[key] != ours[key] for key in shape):
            continue
        theirs = _figures(_select(counted, row))
        for figure in ("ttft", "tpot"):
            ratio, low, high = ratio_of_medians(theirs[figure], mine[figure])
            about = {"figure": figure, "engine": row["engine"], "format": row["format"]}
            found.append({**about, "ratio": ratio, "low": low, "high": high})
    return found


def ratio_of_medians(
    above: Floats, below: Floats, *, paired: bool = True
) -> tuple[float, float | None, float | None]:
    """(median of *above* / median of *below*, and its 95 % interval by a bootstrap).

    The interval's ends are None for fewer than three values.
    """
    import numpy as np
    from scipy import stats

    ratio = float(np.median(above) / np.median(below))
    if min(len(above), len(below)) < 3 or (paired and len(above) != len(below)):
        return ratio, None, None

    def statistic(a: Floats, b: Floats, axis: int) -> Floats:
        found: Floats = np.median(a, axis=axis) / np.median(b, axis=axis)
        return found

    interval = stats.bootstrap(
        (above, below), statistic, paired=paired, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return ratio, float(interval.low), float(interval.high)


def against(new: pd.DataFrame, old: pd.DataFrame) -> list[dict[str, Any]]:
    """Every series that two measurements share: how much slower it is now.

    Returns:
        One dict a series and figure (``ttft``, ``tpot``): the columns of
        :data:`.settings.SERIES` without the model, ``figure``, ``ratio`` (now over then), ``low``
        and ``high``, ``unstable`` where one of the two is.

    Raises:
        InputError: They were measured on unlike hardware, or share no series.
    """
    _same_hardware(new, old)
    keys = [key for key in SERIES if key != "model"]
    sides = [
        dict(list(table[~table["warmup"].astype(bool)].groupby(keys, sort=False)))
        for table in (new, old)
    ]
    found = []
    for key, now in sides[0].items():
        then = sides[1].get(key)
        if then is None:
            continue
        unstable = any(_spread(one["e2e_s"].to_numpy()) > UNSTABLE_SPREAD for one in (now, then))
        ours, theirs = _figures(now), _figures(then)
        for figure in ("ttft", "tpot"):
            ratio, low, high = ratio_of_medians(ours[figure], theirs[figure], paired=False)
            about = dict(zip(keys, key, strict=True))
            ends = {"ratio": ratio, "low": low, "high": high, "unstable": unstable}
            found.append({**about, "figure": figure, **ends})
    if not found:
        raise InputError(
            "the two measurements timed no request of the same engine, format, batch and lengths; "
            "measure both with the same settings"
        )
    return found


def _same_hardware(new: pd.DataFrame, old: pd.DataFrame) -> None:
    for key in SAME:
        now, then = (
            sorted(map(str, table[key].unique())) if key in table else [] for table in (new, old)
        )
        if now != then or not now:
            raise InputError(
                f"the two measurements were made on unlike {key} ({', '.join(now) or 'unknown'}; "
                f"before: {', '.join(then) or 'unknown'}), so a ratio would compare machines; "
                "measure both on one"
            )


def _select(counted: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    keep = counted["warmup"].astype(bool)
    keep = ~keep
    for key in SERIES:
        keep &= counted[key] == row[key]
    return counted[keep].sort_values("iteration")


def _figures(series: pd.DataFrame) -> dict[str, Any]:
    """By label, milliseconds of each request; of ITL, of each gap, one row a request."""
    import numpy as np

    ttft, e2e = (1e3 * series[key].to_numpy(dtype=float) for key in ("ttft_s", "e2e_s"))
    gaps = 1e3 * np.array(series["token_s"].tolist(), dtype=float)
    tpot = (e2e - ttft) / (series["output_tokens"].to_numpy() - 1)
    return {"ttft": ttft, "tpot": tpot, "itl": gaps, "e2e": e2e}


def _percentile(values: Any, percent: int) -> tuple[float, list[float | None]]:
    """A percentile and its interval; of two-dimensional values, rows are requests."""
    import numpy as np

    interval = _by_requests if values.ndim == 2 else _by_order
    return float(np.percentile(values, percent)), interval(values, percent)


def _by_order(values: Floats, percent: int) -> list[float | None]:
    from scipy import stats

    test = stats.quantile_test(values, p=percent / 100)
    interval: Any = test.confidence_interval(CONFIDENCE)  # the stubs call it a float
    return [_known(interval.low), _known(interval.high)]


def _by_requests(values: Floats, percent: int) -> list[float | None]:
    import numpy as np

    if len(values) < 3:
        return [None, None]
    draws = np.random.default_rng(0).integers(len(values), size=(200, len(values)))
    found = [np.percentile(values[draw], percent) for draw in draws]
    low, high = np.percentile(found, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return [float(low), float(high)]


def _spread(e2e: Floats) -> float:
    import numpy as np

    p10, median, p90 = (float(value) for value in np.percentile(e2e, (10, 50, 90)))
    return (p90 - p10) / 2.563 / median


def _circumstances(series: pd.DataFrame) -> dict[str, Any]:
    """What does not change within a series, and medians of what does; None where not recorded."""

    def first(key: str) -> Any:
        return series[key].iloc[0] if key in series else None

    def number(key: str, of: Callable[[Any], Any]) -> float | None:
        return _known(float(of(series[key].astype(float)))) if key in series else None

    threads = first("threads")
    return {
        "threads": None if threads is None else int(threads),
        "hardware": first("hardware"),
        "load_1m": number("load_1m", lambda column: column.median()),
        "clock_mhz": number("clock_mhz", lambda column: column.median()),
        "peak_bytes": number("peak_bytes", lambda column: column.iloc[0]),
        "ttft_floor_ms": _scaled(number("ttft_floor_s", lambda column: column.iloc[0])),
        "token_floor_ms": _scaled(number("token_floor_s", lambda column: column.iloc[0])),
    }


def _scaled(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
