// The only translation unit. Each kernel is compiled from it, with one operation (ops/) and one pattern (patterns/),
// which the options CSM_OP and CSM_PATTERN name: a new file in either folder needs no change here.

#define CSM_QUOTED(path) #path
#define CSM_HEADER(path) CSM_QUOTED(path)

#include CSM_HEADER(ops/CSM_OP.cuh)
#include CSM_HEADER(patterns/CSM_PATTERN.cuh)

// The cluster size is an attribute of the kernel, since CuPy cannot set it at a launch.
#if CSM_CLUSTER > 1
#define CSM_CLUSTER_ATTRIBUTE __cluster_dims__(CSM_CLUSTER, 1, 1)
#else
#define CSM_CLUSTER_ATTRIBUTE
#endif

// The kernel takes one pointer for each operand of its operation, in the order of machine/config.cuh.
#define CSM_EACH_2(of) of(0), of(1)
#define CSM_EACH_3(of) CSM_EACH_2(of), of(2)
#define CSM_EACH_4(of) CSM_EACH_3(of), of(3)
#define CSM_EACH_5(of) CSM_EACH_4(of), of(4)
#define CSM_EACH_6(of) CSM_EACH_5(of), of(5)
#define CSM_EACH_7(of) CSM_EACH_6(of), of(6)
#define CSM_JOINED(a, b) a##b
#define CSM_EACH_OF(count) CSM_JOINED(CSM_EACH_, count)
#define CSM_POINTER(i) char* operand##i
#define CSM_OPERAND(i) operand##i

extern "C" __global__ void __launch_bounds__(CSM_MAX_THREADS, 1) CSM_CLUSTER_ATTRIBUTE
    CSM_NAME(CSM_EACH_OF(CSM_OPERANDS)(CSM_POINTER), char* workspace, const __grid_constant__ csm::Layout layout) {
  csm::run({{CSM_EACH_OF(CSM_OPERANDS)(CSM_OPERAND)}, workspace, layout});
}
