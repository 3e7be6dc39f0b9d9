"""`python -m lavatube` is `lavatube`."""

import sys

from lavatube.cli import main

if __name__ == "__main__":
    sys.exit(main())
