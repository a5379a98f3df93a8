"""A nook's life from outside: starting, adopting, reaching and ending the process that runs it."""
