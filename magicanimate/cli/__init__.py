"""The command line: turns words into requests, shows progress and errors; computes nothing itself."""
