"""Run every benchmark: `python -m benchmarks`."""

from benchmarks import degradation, prior, reading, scale, train

if __name__ == "__main__":
    degradation.main()
    prior.main()
    reading.main()
    scale.main()
    train.main()
