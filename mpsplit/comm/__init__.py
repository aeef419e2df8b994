"""Ranks talking to each other: one small interface, numpy arrays in and out.

The ground that both halves stand on.

communicator  the interface
alone         the one-rank stand-in
native_comm   our own C++: MPI, gloo, shared memory
mpi_comm      what mpi4py does where the C++ was not built
mpi_messages  its messages between two ranks
timeout       how long a silent rank is waited for
world         which rank this is, and the communicator of all ranks
json_wire     JSON values as bytes
link_counts   what one rank handed to another, and how long it waited
gloo          gloo with a face like pygloo's
"""

from mpsplit.comm.alone import Alone
from mpsplit.comm.communicator import Communicator
from mpsplit.comm.mpi_comm import Mpi
from mpsplit.comm.native_comm import Native
from mpsplit.comm.world import end_all_ranks, mpi_rank, mpi_size, world

__all__ = ["Alone", "Communicator", "Mpi", "Native", "end_all_ranks", "mpi_rank", "mpi_size", "world"]
