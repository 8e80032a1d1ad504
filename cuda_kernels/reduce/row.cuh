// One row in memory: where it starts in every operand, the row inputs that are read for it, and the row outputs that
// are written. Used by every tile and pattern.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

// The address of the row's first element, or of its one value, in each operand; and the byte in shared memory at which
// the first element of a staged operand is, or would be.
struct Row {
  char* start[kOperands];
  int staged[kOperands];

  CSM_DEVICE void advance(const Layout& at, i64 rows) {
#pragma unroll
    for (int k = 0; k < kOperands; ++k) start[k] += rows * at.inner_stride[k];
  }
};

CSM_DEVICE Row row_at(const Arguments& args, i64 row) {
  const Layout& at = args.layout;
  Row found;
#pragma unroll
  for (int k = 0; k < kOperands; ++k) {
    found.start[k] = args.operand[k] + offset_of(row, at.batch_size, at.batch_stride[k], at.batch_dims);
  }
  return found;
}

// Byte offset of an element from the row's start. The last of the row's dimensions is contiguous.
template <int Operand>
CSM_DEVICE i64 element_offset(const Arguments& args, i64 index) {
  if constexpr (kRowDims == 1) return index * static_cast<i64>(sizeof(Type<Operand>));
  else return offset_of(index, args.layout.reduce_size, args.layout.reduce_stride[Operand], args.layout.reduce_dims);
}

// The row inputs of a row, where they lie.
struct RowInputs {
  const Row& row;
  bool wanted;

  template <int Operand>
  CSM_DEVICE Type<Operand> value() const {
    // What is the same in all lanes, the compiler moves to a uniform register and waits for it at once, before the row
    // itself is asked for: in clusters of few resident blocks, memory is then idle. It does not know that `own` is 0.
    // Of float32 it does not, and this would only be two instructions more.
    constexpr bool kGivenIndex = kPicked > 0 && kPickRule == PickRule::given;
    constexpr bool kStaysInLanes = kGivenIndex && kCluster > 1 && sizeof(Type<0>) != 4;
    const i64 own = kStaysInLanes && thread_index() >= block_threads() ? i64(sizeof(Type<Operand>)) : 0;
    return global_load(row.start[Operand] + own, wanted, Type<Operand>{});
  }
};

// Reads the row inputs.
template <int Which = 0, class Inputs>
CSM_DEVICE void read_row_values(const Inputs& inputs, RowContext& context) {
  if constexpr (Which < kRowInputs) {
    const auto value = inputs.template value<kInputs + Which>();
    context[Which] = widen(value);
    context.integer[Which] = as_integer(value);
    read_row_values<Which + 1>(inputs, context);
  }
}

// Causal order: rows are queries, counted anew after every `queries`. Each sees one element more than the one before
// it, and the last sees the whole row.
CSM_DEVICE i64 visible_elements(const RowContext& context) {
  const i64 queries = context.option(kQueries);
  const i64 visible = context.row % queries + 1 + (context.n - queries);
  return visible > 0 ? visible : 0;
}

// Elements of the whole row: Layout::n, but of a piece of a row an option of the call.
CSM_DEVICE i64 row_length(const Arguments& args) {
  constexpr int kOption = option_named("row_length");
  if constexpr (kOption >= 0) return args.layout.option[kOption];
  else return args.layout.n;
}

template <class Op, class Inputs>
CSM_DEVICE RowContext context_with(const Arguments& args, const Inputs& inputs, i64 number) {
  RowContext context = {};
  context.args = &args;
  context.row = number;
  context.n = row_length(args);
  if constexpr (kCausal) context.visible = visible_elements(context);
  read_row_values(inputs, context);
  Op::begin(context);
  return context;
}
template <class Op>
CSM_DEVICE RowContext row_context(const Arguments& args, const Row& row, i64 number, bool wanted = true) {
  return context_with<Op>(args, RowInputs{row, wanted}, number);
}

// Those of one of two rows; word by word, so that they stay in registers.
CSM_DEVICE Row either(bool second, const Row& a, const Row& b) {
  Row found;
#pragma unroll
  for (int k = 0; k < kOperands; ++k) found.start[k] = second ? b.start[k] : a.start[k];
  return found;
}
CSM_DEVICE RowContext either(bool second, const RowContext& a, const RowContext& b) {
  RowContext found = a;
  found.row = second ? b.row : a.row;
  found.visible = second ? b.visible : a.visible;
#pragma unroll
  for (int k = 0; k < kRowInputs; ++k) {
    found[k] = second ? b[k] : a[k];
    found.integer[k] = second ? b.integer[k] : a.integer[k];
  }
#pragma unroll
  for (int k = 0; k < kTables; ++k) found.looked_up[k] = second ? b.looked_up[k] : a.looked_up[k];
  return found;
}

// Computes the row outputs from the row's node, and writes them.
template <int Which = 0>
CSM_DEVICE void store_row_values(const Row& row, bool wanted, const Values<kRowOutputs>& values) {
  if constexpr (Which < kRowOutputs) {
    using T = Type<kFirstRowOutput + Which>;
    global_store(row.start[kFirstRowOutput + Which], narrow<T>(values[Which]), wanted);
    store_row_values<Which + 1>(row, wanted, values);
  }
}
template <class Op>
CSM_DEVICE void write_values(const Row& row, const Node& whole, const RowContext& context, bool wanted) {
  if constexpr (kRowOutputs > 0) {
    Values<kRowOutputs> values = {};
    if (wanted) Op::finish(whole, context, values);
    store_row_values(row, wanted, values);
  }
}

}  // namespace csm
