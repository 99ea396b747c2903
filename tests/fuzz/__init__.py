"""A fuzzer for everything that is read from a file or a pipe: `make fuzz [SECONDS=60] [TARGET=...]`."""
