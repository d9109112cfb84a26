"""`python -m xfrmi`."""

import sys

from xfrmi.cli.main import main

sys.exit(main())
