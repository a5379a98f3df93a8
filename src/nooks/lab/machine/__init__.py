"""The lab machine: a whole emulated PC on which the product itself is installed and tried like on any other machine.

Outside: ``options`` parses what the user wants, ``layout`` places the cards, ``arguments`` makes QEMU's command line,
``initramfs`` the first steps inside, ``relay`` carries the command's streams, ``run`` holds it all together.
Inside, with nothing but the standard library: ``inside``, ``coldplug``, ``session``. ``wire`` is what both agree on.
"""
