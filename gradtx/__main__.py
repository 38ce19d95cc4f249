"""`python -m gradtx`."""

import sys

from gradtx._cli import main

if __name__ == "__main__":
    sys.exit(main())
