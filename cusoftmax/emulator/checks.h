// What memory has seen: which output elements were written, and who last touched each shared word.
#pragma once

#include <stdlib.h>

#include "fiber.h"
#include "machine.h"

namespace csm {

// A C-order element index, or -1 if the byte at `offset` does not start an element.
inline i64 element_at(const Array& array, i64 offset) {
  i64 index = 0;
  for (int d = 0; d < array.dims; ++d) {
    const i64 at = offset / array.stride[d];
    if (at >= array.size[d]) return -1;
    offset -= at * array.stride[d];
    index += at * array.weight[d];
  }
  return offset == 0 ? index : -1;
}

enum class Placed { fine, between_elements, part_of_element, written_twice };

// Which elements of a result have been written: a byte for each, in C order.
class Written {
 public:
  bool start(i64 elements) {
    stop();
    bytes_ = map_bytes(static_cast<size_t>(elements > 0 ? elements : 1));
    count_ = elements;
    return bytes_ != nullptr;
  }
  void stop() {
    if (bytes_) munmap(bytes_, static_cast<size_t>(count_ > 0 ? count_ : 1));
    bytes_ = nullptr;
  }
  // False if it had been written before.
  bool mark(i64 index) {
    const bool fresh = !bytes_[index];
    bytes_[index] = 1;
    return fresh;
  }
  i64 first_unwritten() const {
    const void* found = count_ > 0 ? memchr(bytes_, 0, static_cast<size_t>(count_)) : nullptr;
    return found ? static_cast<const char*>(found) - bytes_ : -1;
  }

 private:
  char* bytes_ = nullptr;
  i64 count_ = 0;
};

// Checks, element by element, an access within the range of an array; `element` is the first one found wrong.
inline Placed place(const Array& array, i64 offset, int bytes, Written* written, i64* element) {
  *element = -1;
  if (array.dims < 0) return Placed::fine;
  if (bytes < array.itemsize) {
    // A piece of an element may be read (float64 as two words, say) but an output is written whole.
    if (written) return Placed::part_of_element;
    const i64 rest = array.dims == 1 && array.stride[0] == array.itemsize ? 0 : -1;
    if (rest == 0) return Placed::fine;
    for (i64 back = 0; back < array.itemsize; ++back) {
      if (back <= offset && element_at(array, offset - back) >= 0) return Placed::fine;
    }
    return Placed::between_elements;
  }
  if (bytes % array.itemsize) return Placed::part_of_element;
  if (array.dims == 1 && array.stride[0] == array.itemsize) {
    if (!written) return Placed::fine;
    const int shift = __builtin_ctz(static_cast<u32>(array.itemsize));  // a power of two, as `bytes` is
    i64 index = offset >> shift;
    if (index << shift != offset) return Placed::part_of_element;
    for (const i64 end = index + (bytes >> shift); index < end; ++index) {
      if (written->mark(index)) continue;
      *element = index;
      return Placed::written_twice;
    }
    return Placed::fine;
  }
  for (int done = 0; done < bytes; done += array.itemsize) {
    const i64 index = element_at(array, offset + done);
    if (index < 0) return Placed::between_elements;
    if (written && !written->mark(index)) {
      *element = index;
      return Placed::written_twice;
    }
  }
  return Placed::fine;
}

// When and by whom something was done: barriers of the block (high 32 bits), cluster arrivals of the warp (16 bits),
// thread within the cluster (low 16 bits). Barriers are counted on from one cluster to the next, so that stamps of
// earlier blocks are smaller than any of now and need no clearing.
using Stamp = u64;
inline Stamp stamp(u64 barriers, u64 arrivals, int thread) { return barriers << 32 | arrivals << 16 | u32(thread); }
inline u32 stamp_barriers(Stamp s) { return static_cast<u32>(s >> 32); }
inline u32 stamp_arrivals(Stamp s) { return static_cast<u32>(s >> 16 & 0xffffu); }
inline int stamp_thread(Stamp s) { return static_cast<int>(s & 0xffffu); }

// The last write to a word, and the last reads by two different threads: with those, any writer meets at least one
// other thread's read if there was one since the last barrier.
struct Cell {
  Stamp write, read, other_read;
  u32 write_site, read_site;
};

// Shared memory of one block, and a cell for each granule of it: a word, or, from the first access narrower than a
// word on, a byte.
class SharedMemory {
 public:
  bool reserve(i64 bytes) {
    if (bytes > capacity_) {
      free(data_);
      free(cells_);
      capacity_ = bytes;
      void* data = nullptr;
      data_ = posix_memalign(&data, 16, static_cast<size_t>(bytes)) ? nullptr : static_cast<char*>(data);
      cells_ = nullptr;
      granule_ = 0;
      if (!data_) return false;
    }
    size_ = bytes;
    if (granule_ != 4) {
      granule_ = 4;
      free(cells_);
      cells_ = static_cast<Cell*>(calloc(static_cast<size_t>(capacity_ / 4 + 1), sizeof(Cell)));
    }
    return cells_ != nullptr;
  }
  void poison() { memset(data_, 0xff, static_cast<size_t>(size_)); }
  void forget() { memset(cells_, 0, static_cast<size_t>(capacity_ / granule_ + 1) * sizeof(Cell)); }
  void split_words() {
    if (granule_ == 1) return;
    Cell* finer = static_cast<Cell*>(calloc(static_cast<size_t>(capacity_ + 4), sizeof(Cell)));
    for (i64 i = 0; i < capacity_; ++i) finer[i] = cells_[i / 4];
    free(cells_);
    cells_ = finer;
    granule_ = 1;
  }
  i64 size() const { return size_; }
  int granule() const { return granule_; }
  char* data() const { return data_; }
  Cell& cell(i64 offset) const { return cells_[offset / granule_]; }

 private:
  char* data_ = nullptr;
  Cell* cells_ = nullptr;
  i64 size_ = 0, capacity_ = 0;
  int granule_ = 0;
};

}  // namespace csm
