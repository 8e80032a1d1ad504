"""What profilers print, for the tests of its readers.

The layout is that of real output, as published with other programs (each sample says of which
version). The figures are made up: they test the readers and measure nothing.
"""

from __future__ import annotations

STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"

# Nsight Compute 2025, --csv --page raw --print-units base: names, then units, then a row a launch.
IDENTITY = ("ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream",
             "Block Size", "Grid Size", "Device", "CC")  # fmt: skip
_RAW = {
    "dram__bytes_read.sum": ("byte", "524,300,000", "524300000"),
    "dram__bytes_write.sum": ("byte", "500,000,000", "500000000"),
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": ("%", "61.25", "(!) n/a"),
    "gpu__time_duration.sum": ("ns", "400,000", "400000"),
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": ("sector", "16,384,000", "0"),
    "launch__occupancy_limit_blocks": ("block", "32", "32"),
    "launch__occupancy_limit_registers": ("block", "1", "1"),
    "launch__occupancy_limit_shared_mem": ("block", "2", "2"),
    "launch__occupancy_limit_warps": ("block", "2", "2"),
    "launch__registers_per_thread": ("register/thread", "56", "56"),
    "launch__waves_per_multiprocessor": ("", "62.06", "62.06"),
    "sm__maximum_warps_per_active_cycle_pct": ("%", "50", "50"),
    "sm__warps_active.avg.pct_of_peak_sustained_active": ("%", "48.1", "nan"),
    STALL.format("long_scoreboard"): ("inst", "6.0", "6.0"),
    STALL.format("barrier"): ("inst", "2.0", "2.0"),
    STALL.format("selected"): ("inst", "1.0", "1.0"),
}


def csv_line(*cells: str) -> str:
    return ",".join(f'"{cell}"' for cell in cells)


def raw_page(drop: str = "nothing") -> str:
    kept = {name: cells for name, cells in _RAW.items() if not name.startswith(drop)}
    launches = [
        csv_line(
            str(i), "71", "python3.12", "127.0.0.1", f"csm_softmax_split{i}_f16_v8", "1", "7",
            "(256, 1, 1)", "(64, 1, 1)", "0", "9.0", *(cells[1 + i] for cells in kept.values()),
        )
        for i in (0, 1)
    ]  # fmt: skip
    return "\n".join((
        "==PROF== Connected to process 71 (/usr/bin/python3.12)",
        '==PROF== Profiling "csm_softmax_split0_f16_v8": 0%....50%....100% - 12 passes',
        "cusoftmax: ran 1 x softmax, split",
        "==PROF== Disconnected from process 71",
        csv_line(*IDENTITY, *kept),
        csv_line(*[""] * len(IDENTITY), *(cells[0] for cells in kept.values())),
        *launches,
    )) + "\n"  # fmt: skip


DENIED = """==PROF== Connected to process 71 (/usr/bin/python3.12)
==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance \
Counters on the target device 0. For instructions on enabling permissions and to get more \
information see https://developer.nvidia.com/ERR_NVGPUCTRPERM
cusoftmax: ran 1 x softmax
==PROF== Disconnected from process 71
==WARNING== No kernels were profiled.
"""

# nvprof of CUDA 8 to 12, --csv --metrics.
METRICS = """==15227== NVPROF is profiling process 15227, command: python3 -m cusoftmax._profile
==15227== Warning: Some kernel(s) will be replayed on device 0 in order to collect all metrics.
==15227== Profiling result:
==15227== Metric result:
"Device","Kernel","Invocations","Metric Name","Metric Description","Min","Max","Avg"
"Tesla V100-SXM2-16GB (0)","csm_softmax_block_f16_v8",1,"dram_read_bytes","Total bytes read from \
DRAM to L2 cache",524300000,524300000,524300000
"Tesla V100-SXM2-16GB (0)","csm_softmax_block_f16_v8",1,"dram_write_bytes","Total bytes written \
from L2 cache to DRAM",500000000,500000000,500000000
"Tesla V100-SXM2-16GB (0)","csm_softmax_block_f16_v8",1,"achieved_occupancy","Achieved Occupancy",\
0.850509,0.850901,0.850643
"Tesla V100-SXM2-16GB (0)","csm_softmax_block_f16_v8",1,"dram_utilization","Device Memory \
Utilization","High (8)","High (8)","High (8)"
"Tesla V100-SXM2-16GB (0)","csm_softmax_block_f16_v8",1,"stall_sync","Issue Stall Reasons \
(Synchronization)",25.5%,25.5%,25.5%
"""

# Nsight Systems 2024 to 2026, stats --report cuda_gpu_trace --format csv.
GPU_TRACE = """
NOTICE: Existing SQLite export found: timeline.sqlite
        It is assumed file was previously exported from: timeline.nsys-rep

Processing [timeline.sqlite] with [/opt/nsys/reports/cuda_gpu_trace.py]...
Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,BlkX,BlkY,BlkZ,Reg/Trd,StcSMem (MB),DymSMem (MB),\
Bytes (MB),Throughput (MB/s),SrcMemKd,DstMemKd,Device,Ctx,GreenCtx,Strm,Name
900,7,12,,,,,,,,,,0.000,340.000,Device,,NVIDIA H100 (0),1,,7,[CUDA memset]
1000,2000,13,64,1,1,256,1,1,64,0.000,0.000,,,,,NVIDIA H100 (0),1,,7,csm_softmax_split0_f16_v8
3500,4000,14,64,1,1,256,1,1,64,0.000,0.000,,,,,NVIDIA H100 (0),1,,7,csm_softmax_split1_f16_v8
8000,2200,15,64,1,1,256,1,1,64,0.000,0.000,,,,,NVIDIA H100 (0),1,,7,csm_softmax_split0_f16_v8
10700,4000,16,64,1,1,256,1,1,64,0.000,0.000,,,,,NVIDIA H100 (0),1,,7,csm_softmax_split1_f16_v8
"""

# nvprof, --csv --print-gpu-trace: the units are a row.
NVPROF_TRACE = """==2119== NVPROF is profiling process 2119, command: python3 -m cusoftmax._profile
==2119== Profiling result:
"Start","Duration","Grid X","Block X","Registers Per Thread","Static SMem","Device","Name"
ms,us,,,,KB,,
319.500,4.000,64,256,56,0.000,"Tesla T4 (0)","csm_softmax_block_f16_v8 [318]"
"""
