"""`python -m mpsplit.native`: builds the C++ for this machine, or says what is missing."""

import sys

from mpsplit.native.building import main

sys.exit(main())
