"""``python -m vitnext`` is ``vitnext``; so ``torchrun -m vitnext train ...`` trains with several processes."""

import sys

from vitnext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
