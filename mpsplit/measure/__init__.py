"""How fast is it? The machines, a package on them, and what was predicted beside it.

probe           `mpsplit probe`: a cluster.json out of measurements
probe_machine   memory, disk, cores
probe_engine    engines by how weights are stored; probe_bfloat16 what the native one has not
probe_links     messages between ranks
probe_package   the packages that engines are measured with
bench           `mpsplit bench`: how fast a package runs
report          `run --report`: predicted beside measured
"""
