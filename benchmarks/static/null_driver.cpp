// Functions that do nothing, in place of those through which CuPy calls the CUDA runtime and driver.
//
// CuPy's modules call each other through tables of C functions (Cython's __pyx_capi__), whose
// signatures null_driver.py checks. A name here is that of the table with the prefix "null_".
// Memory is allocated on the host and never accessed.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))

// From Python's C API, declared here because not every machine has its headers.
struct _object;
extern "C" void Py_IncRef(_object*);
extern "C" _object _Py_NoneStruct;

namespace {
long launches = 0;
const size_t* sizes = nullptr;  // of the arguments to copy; the last one is 0
unsigned char* copies = nullptr;

_object* none() {
  Py_IncRef(&_Py_NoneStruct);
  return &_Py_NoneStruct;
}
}  // namespace

EXPORT _object* null_launchKernel(intptr_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                  intptr_t, intptr_t arguments, intptr_t, int) {
  ++launches;
  unsigned char* to = copies;
  for (size_t i = 0; sizes && sizes[i]; to += sizes[i++])
    std::memcpy(to, reinterpret_cast<void**>(arguments)[i], sizes[i]);
  return none();
}

EXPORT int null_getDevice(int) { return 0; }
EXPORT int null_getDeviceCount(int) { return 1; }
EXPORT _object* null__ensure_context() { return none(); }

EXPORT intptr_t null_malloc(size_t bytes, int) { return reinterpret_cast<intptr_t>(std::aligned_alloc(512, bytes)); }

EXPORT _object* null_free(intptr_t pointer, int) {
  std::free(reinterpret_cast<void*>(pointer));
  return none();
}

// Nothing is loaded, so any handle other than 0 serves.
EXPORT intptr_t null_moduleLoad(_object*, int) { return 1; }
EXPORT _object* null_moduleUnload(intptr_t, int) { return none(); }
EXPORT intptr_t null_moduleGetFunction(intptr_t, _object*, int) { return 1; }

EXPORT long null_launches() { return launches; }

EXPORT void null_copy(const size_t* of, unsigned char* into) { sizes = of, copies = into; }
