"""The same classifier behind other servers, measured beside ours: `python -m loadtests.peers --help`."""
