"""The commands that write, killed, run twice at once and on full disks: whatever is there is whole, and the next call
of the same command ends with what an undisturbed one leaves.

commands  what is run, on tiny models, and what an undisturbed call leaves
process   a call in a process of its own, with an end if wanted
trials    what is done to them, and what must not be afterwards
"""
