"""What several ranks, and several commands, do with one package.

exchanged       what ranks tell each other in JSON, looked at before it is used
package_lock    who uses a package: many may run it, or one may write it
folder_lock     who keeps sessions or prefixes in a folder of it
package_commit  a new package in the place of an old one, at one moment
verified_files   which files were found to have which sha256
"""
