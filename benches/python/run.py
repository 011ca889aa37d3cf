"""Compare multigil with the standard library: `python benches/python/run.py --help`.

`python benches/python/run.py storm` kills processes that share a queue, until it hangs.
"""

import sys

if __name__ == "__main__":
    # Processes that are started import this file again; they are to pay for nothing by it.
    if sys.argv[1:2] == ["storm"]:
        from storm import main

        del sys.argv[1]
    else:
        from commandline import main

    sys.exit(main())
