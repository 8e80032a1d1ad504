"""The command line: ``cusoftmax demo | check | info | explain | cost | profile | kernels``."""
