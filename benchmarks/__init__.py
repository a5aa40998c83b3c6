"""Speed, each figure as a ratio against a plain baseline in the same run: `make bench`."""
