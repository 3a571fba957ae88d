"""Run a module of this package in an interpreter that has none of the packages beside it.

    PYTHON -I bench/runner/boot.py bench.worker [ARGUMENT...]

The folder that holds `bench` may be the harness's own site-packages, whose transformers, numpy and
torch must not be found before those of an engine's environment. So nothing is added to the search
path: this package alone is made known, by its place. Standard library only.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Make `bench` importable and run the module that is named first."""
    folder = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = package
    spec.loader.exec_module(package)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
