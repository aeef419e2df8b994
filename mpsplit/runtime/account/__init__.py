"""What steps cost: bytes, memory, time, and who makes the others wait.

account         one rank's account of its steps
ledger          what each rank did in all, and of late
straggler       whom the others wait for
account_tables  the same for people
"""
