// C functions for CuPy's tables, each of which calls a Python function.
//
// CSM_ENTRIES lists them as E(v, t): v is what tells Cython to look for an exception, t the function's type as CuPy's
// capsule names it. A Python function cannot stand in a table by ctypes: an exception would end there.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#define EXPORT extern "C" __attribute__((visibility("default")))

// From Python's C API, declared here because not every machine has its headers.
struct _object;
using PyObject = _object;
extern "C" {
void Py_IncRef(PyObject*);
void Py_DecRef(PyObject*);
PyObject* PyTuple_New(ptrdiff_t);
int PyTuple_SetItem(PyObject*, ptrdiff_t, PyObject*);
PyObject* PyObject_CallObject(PyObject*, PyObject*);
PyObject* PyLong_FromLongLong(long long);
PyObject* PyLong_FromUnsignedLongLong(unsigned long long);
PyObject* PyLong_FromVoidPtr(void*);
long long PyLong_AsLongLong(PyObject*);
double PyFloat_AsDouble(PyObject*);
PyObject* PyErr_Occurred();
int Py_IsInitialized();
}
extern "C" PyObject _Py_NoneStruct;

// Types of the CUDA headers that signatures name.
using CUdevice = int;
using cudaMemcpyKind = int;

#define E(...) +1
constexpr int kEntries = 0 CSM_ENTRIES;
#undef E

EXPORT PyObject* csm_functions[kEntries];
PyObject* csm_functions[kEntries] = {};

namespace {

template <class T>
PyObject* boxed(T value) {
  if constexpr (std::is_same_v<T, PyObject*>) {
    Py_IncRef(value);
    return value;
  } else if constexpr (std::is_pointer_v<T>) {
    return PyLong_FromVoidPtr(value);
  } else if constexpr (std::is_signed_v<T>) {
    return PyLong_FromLongLong(value);
  } else {
    return PyLong_FromUnsignedLongLong(value);
  }
}

template <int kEntry, int kFailed, class Type>
struct Entry;

template <int kEntry, int kFailed, class R, class... A>
struct Entry<kEntry, kFailed, R(A...)> {
  static R call(A... arguments) {
    // As the process ends, arrays are still dropped, but there is no Python any more to call.
    if (!Py_IsInitialized()) return ended();
    PyObject* tuple = PyTuple_New(sizeof...(A));
    if (!tuple) return R(kFailed);
    ptrdiff_t at = 0;
    (PyTuple_SetItem(tuple, at++, boxed(arguments)), ...);
    PyObject* result = PyObject_CallObject(csm_functions[kEntry], tuple);
    Py_DecRef(tuple);
    if constexpr (std::is_pointer_v<R>) {
      return reinterpret_cast<R>(result);
    } else {
      if (!result) return R(kFailed);
      R value;
      if constexpr (std::is_floating_point_v<R>) value = R(PyFloat_AsDouble(result));
      else value = R(PyLong_AsLongLong(result));
      Py_DecRef(result);
      return PyErr_Occurred() ? R(kFailed) : value;
    }
  }

  static R ended() {
    if constexpr (std::is_pointer_v<R>) {
      Py_IncRef(&_Py_NoneStruct);
      return reinterpret_cast<R>(&_Py_NoneStruct);
    } else {
      return R();
    }
  }
};

}  // namespace

#define E(FAILED, ...) reinterpret_cast<void*>(&Entry<__COUNTER__, FAILED, __VA_ARGS__>::call),
EXPORT void* const csm_entries[kEntries];
void* const csm_entries[kEntries] = {CSM_ENTRIES};
