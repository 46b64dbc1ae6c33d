"""Measurements: ``python -m benchmarks NAME``. Each writes its section of RESULTS.md, with commit, date and machine."""
