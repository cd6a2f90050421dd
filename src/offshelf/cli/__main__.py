"""``python -m offshelf.cli`` is `offshelf`."""

import sys

from offshelf.cli import main

if __name__ == "__main__":
    sys.exit(main())
