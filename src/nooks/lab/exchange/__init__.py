"""The application of the class network that knows when it is wrong: a file each way with checksum, and questions.

``server`` is at the far end of the cable; ``client`` runs on the host of a nook, or (``guest``) inside the kernel that
the driver itself is in. Standard library only.
"""
