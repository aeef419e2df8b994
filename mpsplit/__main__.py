import sys

from mpsplit.cli import main

sys.exit(main())
