"""A bar for the tests of `multigil.progress`."""

from __future__ import annotations

import io
from typing import Any

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
    """Writes down how it was made and what it was told."""

    made: list[Bar] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options = dict(kwargs)
        self.steps: list[int] = []
        super().__init__(*args, **{"file": io.StringIO(), **kwargs})
        self.made.append(self)

    def update(self, n: float | None = 1) -> bool | None:
        self.steps.append(int(n or 0))
        return super().update(n)
