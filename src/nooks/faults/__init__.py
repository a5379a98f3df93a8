"""The fault injector: changes the live code of a driver in a domain, as the Nooks evaluation did.

Knows the debug stub's protocol, ELF symbols and x86 code; must not know nooks, recovery or shadows.
"""
