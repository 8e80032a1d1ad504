// The one translation unit of the row operations: an operation (ops/), a pattern (patterns/), one entry.
//
// Both are chosen by name, so a new file in either folder needs no change here.

#define CSM_QUOTED(path) #path
#define CSM_HEADER(path) CSM_QUOTED(path)

#include CSM_HEADER(ops/CSM_OP.cuh)
#include CSM_HEADER(patterns/CSM_PATTERN.cuh)

// CuPy launches without attributes, so a cluster's size is the kernel's own.
#if CSM_CLUSTER > 1
#define CSM_CLUSTER_ATTRIBUTE __cluster_dims__(CSM_CLUSTER, 1, 1)
#else
#define CSM_CLUSTER_ATTRIBUTE
#endif

extern "C" __global__ void __launch_bounds__(CSM_MAX_THREADS, 1) CSM_CLUSTER_ATTRIBUTE
    CSM_NAME(const char* in0, const char* in1, char* out, char* workspace, const __grid_constant__ csm::Layout layout) {
  csm::run({in0, in1, out, workspace, layout});
}
