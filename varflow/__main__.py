"""`python -m varflow` is the command `varflow`."""

import sys

from varflow.cli.command import main

sys.exit(main())
