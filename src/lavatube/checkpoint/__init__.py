"""Config files in, a ModelSpec out: `read.read_spec`."""
