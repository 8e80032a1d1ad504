// The library of one kernel: CSM_SOURCE, built for the CPU with the CSM_* options, and the two functions that the
// runtime calls.
//
// csm_attach gives the kernel its Machine before a launch; csm_enter runs one thread of the kernel.
#include "cuda_host.h"

#include CSM_SOURCE

namespace csm {

template <class T>
struct Value {
  using type = T;
};
template <class T>
struct Value<const T> {
  using type = T;
};

// Calls the kernel with its parameters from `args`, which holds a pointer to each of them, as for cuLaunchKernel.
// `done` are those already read; the parameter types that are left decide how the next pointer is read.
template <int at, class Kernel, class... Rest>
struct Unpack;
template <int at, class... All>
struct Unpack<at, void(All...)> {
  template <class... Done>
  static void run(void (*kernel)(All...), void** args, const Done&... done) {
    kernel(done...);
    (void)args;
  }
};
template <int at, class... All, class Next, class... Rest>
struct Unpack<at, void(All...), Next, Rest...> {
  template <class... Done>
  static void run(void (*kernel)(All...), void** args, const Done&... done) {
    const auto& next = *static_cast<const typename Value<Next>::type*>(args[at]);
    Unpack<at + 1, void(All...), Rest...>::run(kernel, args, done..., next);
  }
};
template <class... All>
void enter(void (*kernel)(All...), void** args) {
  Unpack<0, void(All...), All...>::run(kernel, args);
}

}  // namespace csm

#define CSM_EXPORT extern "C" __attribute__((visibility("default")))

CSM_EXPORT void csm_attach(csm::Machine* machine) { csm::machine = machine; }
CSM_EXPORT void csm_enter(void** args) { csm::enter(CSM_NAME, args); }
