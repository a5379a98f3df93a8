"""Fault-injection campaigns: many trials, each classified by an oracle, with native controls beside them.

Uses the product as any user does, through its command line and its control socket.
"""
