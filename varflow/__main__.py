"""`python -m varflow` is the command `varflow`."""

import sys

from varflow.cli import main

sys.exit(main())
