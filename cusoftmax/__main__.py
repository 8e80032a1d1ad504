"""``python -m cusoftmax``: the command line."""

import sys

from cusoftmax.cli.main import main

sys.exit(main())
