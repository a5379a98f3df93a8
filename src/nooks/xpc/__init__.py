"""XPC: calls across the protection boundary. Wire format, messages, and the host's end of the channel.

``wire`` and ``errors`` are also used inside the domain and import next to nothing; ``messages``,
``settings`` and ``channel`` are for the host only. Standard library only.
"""
