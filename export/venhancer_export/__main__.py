"""`python -m venhancer_export` is `venhancer-export`."""

import sys

from venhancer_export.cli import main

if __name__ == "__main__":
    sys.exit(main())
