"""Ray as a launcher of ranks, beside mpirun (mpsplit/mpirun.py): `--launcher ray`.

Ray places and watches; it never carries what ranks tell each other.

ray_session     joins Ray's cluster, and leaves it
ray_nodes       the machines of the cluster, as plans and places see them
rank_places     what each rank asks for, and what Ray is asked for it
rank_actor      one rank's supervisor on its machine
meeting_copies  a folder to meet in, where machines share none
ray_ranks       this very command on its ranks, to their end
"""
