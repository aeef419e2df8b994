import sys

from mpsplit.leash import end_with_mpirun

end_with_mpirun()  # before all that is imported now

from mpsplit.cli import main  # noqa: E402

sys.exit(main())
