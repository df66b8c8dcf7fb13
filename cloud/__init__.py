"""Machines in the cloud, from creation to deletion. Python's own library only: nothing has to be installed for it."""
