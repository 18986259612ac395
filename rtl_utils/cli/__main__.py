"""`python -m rtl_utils.cli` is `rtl`."""

import sys

from rtl_utils.cli import main

if __name__ == "__main__":
    sys.exit(main())
