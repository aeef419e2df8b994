"""Two processes or more that talk over gloo, without mpirun: a sum, and a number around a ring.

    python examples/gloo_ring.py 1 2 FOLDER &
    python examples/gloo_ring.py 0 2 FOLDER

In: which rank this is, how many there are, a folder that all of them see. Out: a line a rank.
"""

import sys

import numpy as np

from mpsplit.comm import gloo
from mpsplit.errors import RunError


def main(rank: int, size: int, folder: str) -> None:
    context = gloo.Context(rank, size)
    context.connect(folder)

    total = np.full(3, rank + 1, np.float32)
    gloo.all_reduce(context, total)

    # rank 0 begins with 10, each of the others adds 1 and hands it on
    number = np.array([10])
    if rank == 0:
        gloo.send(context, number, (rank + 1) % size)
        gloo.recv(context, number, (rank - 1) % size)
    else:
        gloo.recv(context, number, (rank - 1) % size)
        number += 1
        gloo.send(context, number, (rank + 1) % size)

    gloo.barrier(context)
    print(f"rank {rank} of {size}: the sum is {total.tolist()}, and the ring brought {number[0]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except (RunError, ValueError) as wrong:  # who did not come, or an argument that is no number
        print(wrong, file=sys.stderr)
        sys.exit(2)
