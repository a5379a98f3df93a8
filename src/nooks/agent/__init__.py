"""The agent: our only code inside a domain, and its init (process 1).

Standard library of Python 3.11 only, 64 and 32 bits. Under emulation every import costs 3 to 60 ms, so this
room uses the C modules below ``socket``, ``json`` and ``threading`` directly; the image carries one fixed
Python, so that cannot break behind our back.
"""
