"""`python -m understudy`."""

import sys

from understudy.cli.app import main

sys.exit(main())
