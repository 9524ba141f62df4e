"""`python -m venhancer_rt` is `venhancer-rt`."""

import sys

from venhancer_rt.cli import main

if __name__ == "__main__":
    sys.exit(main())
