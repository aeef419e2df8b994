"""What several ranks, and several commands, do with one package.

exchanged  what ranks tell each other in JSON, looked at before it is used
"""
