"""Run every benchmark: `python -m benchmarks`."""

from benchmarks import degradation, prior

if __name__ == "__main__":
    degradation.main()
    prior.main()
