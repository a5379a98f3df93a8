"""Block nooks in the lab: a file system on a nook's disk, applications that work on it, benchmarks."""
