"""What runs in an interpreter for joblib, which loads there only if the user's functions ask for it."""

from __future__ import annotations

import os
import pickle
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any


class _WithoutProcesses:
    """Lets `import joblib` succeed in an interpreter: as if this machine had no `multiprocessing`.

    joblib imports loky otherwise, and loky `faulthandler` (on 3.12 `ctypes`, too), which no interpreter with a GIL of
    its own can load. Nested calls of `Parallel` run one call after another.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(name, self) if name == "joblib._multiprocessing_helpers" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        del spec

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(mp=None, assert_spawning=None)


def start(environment: Mapping[str, str] | None, initializer: bytes) -> None:
    """Prepare a worker: a process gets the environment, an interpreter (None) can import joblib.

    The initializer and its arguments are pickled, for it takes the preparation to unpickle them.
    """
    if environment is None:
        sys.meta_path.insert(0, _WithoutProcesses())
    else:
        os.environ.update(environment)
    function, args = pickle.loads(initializer)
    function(*args)


def run_batch(items: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
    """Run a batch of calls, one after another."""
    return [function(*args, **kwargs) for function, args, kwargs in items]
