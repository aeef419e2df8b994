"""The border: the package on disk is the only thing that the export half and the run half share. Stdlib and numpy only."""
