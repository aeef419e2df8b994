"""`python -m mpsplit.native`: builds the C++ for this machine, or says what is missing.

`python -m mpsplit.native pnnx` does so with pnnx.
"""

import sys

from mpsplit.native.building import main

sys.exit(main(sys.argv[1:]))
