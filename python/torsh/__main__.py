"""`python -m torsh`: see `torsh._cli`."""

import sys

from torsh._cli import main

if __name__ == "__main__":
    sys.exit(main())
