"""Programs that tests run as a domain's init, with stock drivers and nothing else of ours. Standard library only."""
