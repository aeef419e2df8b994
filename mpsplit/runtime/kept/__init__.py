"""What the cache knows of a text, kept on disk.

kept_texts     named prefixes and conversations, in folders of the package
cache_on_disk  between the cache and those folders
"""
