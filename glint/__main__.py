"""`python -m glint`."""

import sys

from glint.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
