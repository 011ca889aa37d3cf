"""Compare multigil with the standard library: `python benches/python/run.py --help`."""

import sys

if __name__ == "__main__":
    # Processes that are started import this file again; they are to pay for nothing by it.
    from commandline import main

    sys.exit(main())
