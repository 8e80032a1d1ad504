"""The public functions: `test_family` is of all operations, the others are of one each."""
