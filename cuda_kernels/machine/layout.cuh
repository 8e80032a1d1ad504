// How the operands of a call lie in memory: the kernel's arguments. Used by every file that computes an address or
// reads an option.
#pragma once

#include "machine/config.cuh"

namespace csm {

// The arrays after the host has merged neighbouring dimensions. All strides are in bytes. Outputs with one value a row
// have row strides of 0; the row stride of a selection leads from one selected element to the next.
// The host writes this struct word by word: layout_of in cusoftmax.
struct Layout {
  i64 n;     // elements of a row
  i64 rows;  // rows
  // Split and topk patterns: rounds of one chunk a warp that a block makes over its piece of a row. Column pattern: of
  // one chunk a walker. Where short rows are staged: rows that a thread of the group pattern takes.
  i64 rounds;
  i64 batch_dims, reduce_dims;  // dimensions in use of batch_* and reduce_*
  // Column pattern: so many rows lie side by side, inner_stride apart, and batch_* describe the other dimensions.
  i64 inner;
  // Column pattern, where operands are staged: over neighbouring rows. With kParks: rounds, or chunks, that are parked.
  i64 passes;
  // Segment pattern: rows of a column, and blocks that check the offsets.
  i64 segments, checkers;
  i64 inner_stride[kOperands];
  i64 batch_size[kBatchDims], reduce_size[kRowDims];
  i64 batch_stride[kOperands][kBatchDims], reduce_stride[kOperands][kRowDims];
  i64 option[kOptions > 0 ? kOptions : 1];  // integers, and the bits of numbers of type Acc

  CSM_DEVICE Acc number(int k) const {
    if constexpr (kSingle) return bits_to_float(static_cast<unsigned>(option[k]));
    else return bits_to_double(static_cast<unsigned long long>(option[k]));
  }
};

static_assert(sizeof(Layout) == CSM_LAYOUT_BYTES, "the host's Layout has another size");
// The word at which the host puts each field, by name.
namespace host_word {
enum { CSM_LAYOUT_WORDS };
}
#define CSM_ASSERT_FIELD(field)                                                 \
  static_assert(CSM_OFFSET_OF(Layout, field) == sizeof(i64) * host_word::field, \
                "the host puts Layout::" #field " elsewhere")
CSM_ASSERT_FIELD(n);
CSM_ASSERT_FIELD(rows);
CSM_ASSERT_FIELD(rounds);
CSM_ASSERT_FIELD(batch_dims);
CSM_ASSERT_FIELD(reduce_dims);
CSM_ASSERT_FIELD(inner);
CSM_ASSERT_FIELD(passes);
CSM_ASSERT_FIELD(segments);
CSM_ASSERT_FIELD(checkers);
CSM_ASSERT_FIELD(inner_stride);
CSM_ASSERT_FIELD(batch_size);
CSM_ASSERT_FIELD(reduce_size);
CSM_ASSERT_FIELD(batch_stride);
CSM_ASSERT_FIELD(reduce_stride);
CSM_ASSERT_FIELD(option);

// Byte offset of the index-th point of an array of `dims` dimensions, the last one fastest.
template <int Dims>
CSM_DEVICE i64 offset_of(i64 index, const i64 (&size)[Dims], const i64 (&stride)[Dims], i64 dims) {
  i64 offset = 0;
  if constexpr (Dims > 1) {
#pragma unroll 1  // a 64-bit division is many instructions, and every access has its own
    for (i64 d = dims - 1; d > 0; --d) {
      const i64 rest = index / size[d];
      offset += (index - rest * size[d]) * stride[d];
      index = rest;
    }
  }
  return offset + index * stride[0];
}

struct Arguments {
  char* operand[kOperands];
  char* workspace;
  const Layout& layout;
};

}  // namespace csm
