"""The lab: demonstrations, benchmarks, soaks and reports. It uses the product as any other user does.

Nothing of the product imports this room, except the commands that are the lab's own.
"""
