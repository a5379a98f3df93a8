"""Models of cards that nobody emulates, each in a process of its own, attached to a domain by vfio-user.

A card outlives the domain of its driver, and the next driver finds it in whatever state it was left. ``server`` speaks
the protocol, ``memory`` is the bus to a domain's memory, ``pci`` a function on it, and the cards are built on that.
"""
