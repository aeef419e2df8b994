"""What the cache knows of a text, kept on disk.

kept_texts      named prefixes and conversations, in folders of the package
segments        which parts of a text are kept, as it grows
session_counts  how much is kept for whom, and what has to go
outcomes        how it went on a rank
kept_folders    the folders, as one process may change them
saves           texts on their way to the disk, one after another
cache_on_disk   between the cache and those folders
"""
