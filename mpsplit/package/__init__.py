"""The border: the package on disk is the only thing that the export half and the run half share.

Stdlib and numpy only.

manifest         manifest.json: what a package holds, and the proof that it is whole
manifest_fields  what may stand in it; json_fields the tools for saying so
agreement        how far a package is from its model, as the manifest keeps it
param_text       the text of an ncnn .param file as dataclasses
collectives      the collectives, once for everybody
whole_files      files that are whole or not there
named_templates  chat templates by name
together/        what several ranks, and several commands, do with one package
checked/         whether a rank's graph can be given to an engine
stored/          how numbers lie in the files
stages/          a pipeline of stages on the disk
sealed/          the same files, encrypted
inside/          what a package holds, for people
picture/         a rank's graph, drawn
"""
