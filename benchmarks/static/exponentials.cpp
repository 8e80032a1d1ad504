// The error of the exponentials that float32 results are made of, for all float32 numbers of a range: the kernels' own
// source, built for the host as the emulator builds it. benchmarks/exponentials.py calls it.
#include "cuda_host.h"
#include "numeric/exp.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

// The least and the largest relative error of exponentials, in units of 2^-24, and where they are.
struct Extremes {
  double least, largest;
  float least_at, largest_at;
};

// e^r for |r| < 0.4, by its series.
static double exact(double r) {
  double sum = 1;
  for (int n = 16; n >= 1; --n) sum = 1 + sum * r / n;
  return sum;
}

// Of every `step`-th of the float32 numbers whose bits are [first, last).
EXPORT Extremes sweep(unsigned first, unsigned last, unsigned step) {
  using namespace csm;
  constexpr double kLn2 = 0x1.62e42fefap-1, kRest = 0x1.cf79abc9e3b398p-40;  // k · kLn2 is exact
  Extremes found = {1, -1, 0, 0};
  for (unsigned long long bits = first; bits < last; bits += step) {
    const float x = bits_to_float(static_cast<unsigned>(bits));
    const Reference to = reference_of(as_double_word(x));
    const double k = ExpC::kRound + ExpC::kLowered - to.round;
    const double truth = exact(((double(x) - to.shift.hi) - k * kLn2) - k * kRest);
    const double error = (double(exponential(x, to)) * ExpC::kRaise - truth) / truth * 0x1p24;
    if (error < found.least) found.least = error, found.least_at = x;
    if (error > found.largest) found.largest = error, found.largest_at = x;
  }
  return found;
}
