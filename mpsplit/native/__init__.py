"""The C++ of extensions/: what builds it, and where it is found.

cpp          finds what was built for this machine
building     builds it, `python -m mpsplit.native`
third_party  what is built from elsewhere: fetched and checked
"""
