"""Why a call is not as fast as a copy: profilers, timings and the emulator's counts."""
