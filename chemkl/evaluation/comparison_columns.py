"""The columns of a comparison's tables, each with its meaning."""

import pyarrow as pa

from chemkl.results.columns import described_schema

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

VALUES_SCHEMA = described_schema(
    {
        "method": (_TEXT, "Name of the method."),
        "seed": (_INT, "Seed of the run."),
        "metric": (_TEXT, "Column of the evaluation."),
        "threshold": (_FLOAT, "Hits are molecules with R >= this. Null: all molecules or the run."),
        "value": (_FLOAT, "As it enters the comparison. Null: not defined, as without any hit."),
        "not_reached": (
            pa.bool_(),
            "Whether an oracle burden was not reached and enters as budget + 1, its lower bound.",
        ),
    }
)

COMPARISON_SCHEMA = described_schema(
    {
        "method": (_TEXT, "Name of the method."),
        "baseline": (_TEXT, "Name of the method that it is compared with."),
        "metric": (_TEXT, "Column of the evaluation."),
        "threshold": (_FLOAT, "Hits are molecules with R >= this. Null: all molecules or the run."),
        "better": (_TEXT, "Which values are better: higher or lower."),
        "seeds": (pa.list_(_INT), "Seeds of the pairs of runs."),
        "n": (_INT, "Pairs of runs in which the metric is defined for both."),
        "n_undefined": (_INT, "Pairs left out: the metric is null in one, as without any hit."),
        "n_not_reached": (_INT, "Runs of the method whose oracle burden entered as budget + 1."),
        "baseline_not_reached": (_INT, "The same of the baseline."),
        "mean": (_FLOAT, "Mean of the method over the pairs."),
        "sd": (_FLOAT, "Standard deviation of the method, n - 1 in the denominator."),
        "baseline_mean": (_FLOAT, "Mean of the baseline over the same pairs."),
        "baseline_sd": (_FLOAT, "Standard deviation of the baseline."),
        "difference": (_FLOAT, "Mean of method minus baseline over the pairs."),
        "low": (
            _FLOAT,
            "Lower end of the percentile interval of the difference over resampled pairs; null "
            "below two pairs. Too narrow for few pairs: 95 % nominal covers 84 % at 5 normal ones.",
        ),
        "high": (_FLOAT, "Upper end of that interval."),
        "t": (_FLOAT, "Welch's t; null below two pairs, or where neither method varies."),
        "df": (_FLOAT, "Its degrees of freedom (Welch-Satterthwaite)."),
        "p": (_FLOAT, "One-sided p value; the alternative is that the method is better."),
        "p_holm": (_FLOAT, "p corrected by Holm's method for all tests of this table."),
        "verdict": (
            _TEXT,
            "better: p_holm is below alpha; not shown: it is not; not resolved: fewer than 5 "
            "pairs, or nothing varies.",
        ),
    }
)
