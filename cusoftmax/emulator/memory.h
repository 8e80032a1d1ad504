// What the emulator remembers of memory, to check each access against: which elements of the results have been
// written, and which thread last wrote and read each word of shared memory.
//
// Pure data structures, which know neither threads nor errors. checks.h looks accesses up in them, scheduler.h and
// runtime.cpp set them up; fiber.h takes its stacks from map_bytes().
#pragma once

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

namespace csm {

// Reserves `bytes` of zeros in the address space; the system provides a page when it is first touched.
inline char* map_bytes(size_t bytes) {
  void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return got == MAP_FAILED ? nullptr : static_cast<char*>(got);
}

// ---- global memory ----

// The C-order index of the element that starts at byte `offset` of the array, or -1 if none starts there.
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

// Which elements of one result have been written: a byte for each, in C order.
class WrittenElements {
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
  // Marks an element as written. False if it already was.
  bool mark(i64 index) {
    const bool fresh = !bytes_[index];
    bytes_[index] = 1;
    return fresh;
  }
  // The lowest index of an element that was not written, or -1 if all were.
  i64 first_unwritten() const {
    const void* found = count_ > 0 ? memchr(bytes_, 0, static_cast<size_t>(count_)) : nullptr;
    return found ? static_cast<const char*>(found) - bytes_ : -1;
  }

 private:
  char* bytes_ = nullptr;
  i64 count_ = 0;
};

enum class Placement { fine, between_elements, part_of_element, written_twice };

// Compares an access that lies within the array's byte range with the array's elements. `written` is null for a read,
// and for an array whose elements may be written any number of times. If an element is written twice, `element` is its
// index.
inline Placement placement(const Array& array, i64 offset, int bytes, WrittenElements* written, i64* element) {
  *element = -1;
  if (array.dims < 0) return Placement::fine;
  const bool contiguous = array.dims == 1 && array.stride[0] == array.itemsize;
  if (bytes < array.itemsize) {
    // A part of an element may be read (a float64 as two words, say), but a result is written in whole elements.
    if (written) return Placement::part_of_element;
    if (contiguous) return Placement::fine;
    for (i64 back = 0; back < array.itemsize; ++back) {
      if (back <= offset && element_at(array, offset - back) >= 0) return Placement::fine;
    }
    return Placement::between_elements;
  }
  if (bytes % array.itemsize) return Placement::part_of_element;
  if (contiguous) {
    if (!written) return Placement::fine;
    const int shift = __builtin_ctz(static_cast<u32>(array.itemsize));  // `itemsize` divides `bytes`, a power of two
    i64 index = offset >> shift;
    if (index << shift != offset) return Placement::part_of_element;
    for (const i64 end = index + (bytes >> shift); index < end; ++index) {
      if (written->mark(index)) continue;
      *element = index;
      return Placement::written_twice;
    }
    return Placement::fine;
  }
  for (int done = 0; done < bytes; done += array.itemsize) {
    const i64 index = element_at(array, offset + done);
    if (index < 0) return Placement::between_elements;
    if (written && !written->mark(index)) {
      *element = index;
      return Placement::written_twice;
    }
  }
  return Placement::fine;
}

// ---- shared memory ----

// When an access happened and which thread made it: the number of block barriers so far (high 32 bits), the cluster
// arrivals of the thread's warp (16 bits), and the thread's number in the cluster (low 16 bits). The count of block
// barriers continues from one cluster to the next, so that stamps of earlier clusters are smaller than all of the
// present one and need not be cleared.
using Stamp = u64;
inline Stamp stamp(u64 barriers, u64 arrivals, int thread) { return barriers << 32 | arrivals << 16 | u32(thread); }
inline u32 stamp_barriers(Stamp s) { return static_cast<u32>(s >> 32); }
inline u32 stamp_arrivals(Stamp s) { return static_cast<u32>(s >> 16 & 0xffffu); }
inline int stamp_thread(Stamp s) { return static_cast<int>(s & 0xffffu); }

// The last write to a word, and the last reads by two different threads. Two are enough: whichever thread writes next,
// if another thread has read the word since the last barrier, one of the two reads is by a thread other than the
// writer. After additions, `read_site` is kAdded, `write` the last, `other_read` the last by another thread, and `read`
// the write before them.
struct Cell {
  Stamp write, read, other_read;
  u32 write_site, read_site;
};
constexpr u32 kAdded = ~0u;

// The shared memory of one block, and a Cell for each four bytes of it; for each byte from the first access on that is
// narrower than that.
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
  // Fills the memory with bytes that are NaN as float32 and float64, so that no kernel is right by reading zeros.
  void poison() { memset(data_, 0xff, static_cast<size_t>(size_)); }
  void forget_accesses() { memset(cells_, 0, static_cast<size_t>(capacity_ / granule_ + 1) * sizeof(Cell)); }
  // From now on a Cell for each byte.
  void split_words() {
    if (granule_ == 1) return;
    Cell* finer = static_cast<Cell*>(calloc(static_cast<size_t>(capacity_ + 4), sizeof(Cell)));
    for (i64 i = 0; i < capacity_; ++i) finer[i] = cells_[i / 4];
    free(cells_);
    cells_ = finer;
    granule_ = 1;
  }
  int granule() const { return granule_; }  // bytes of a cell
  char* data() const { return data_; }
  Cell& cell(i64 offset) const { return cells_[offset / granule_]; }

 private:
  char* data_ = nullptr;
  Cell* cells_ = nullptr;
  i64 size_ = 0, capacity_ = 0;
  int granule_ = 0;
};

}  // namespace csm
