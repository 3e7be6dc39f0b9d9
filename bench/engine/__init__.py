"""The engine against its peers: `python -m bench.engine --help`."""
