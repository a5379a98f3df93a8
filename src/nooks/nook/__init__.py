"""One nook: the process that runs it, and the only place that joins policy to domains, endpoints and devices."""
