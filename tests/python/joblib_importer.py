"""A module that imports joblib, as those of users do, for joblib's workers to import."""

from __future__ import annotations

from joblib import Parallel, delayed

from joblib_workers import square


def sum_of_squares(n: int) -> int:
    """In a nested call of `Parallel`."""
    return sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(n)))
