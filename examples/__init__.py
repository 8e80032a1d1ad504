"""Work done with cusoftmax: each script runs on a GPU or, where there is none, on the emulator."""
