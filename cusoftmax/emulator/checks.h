// Checks each access to global and shared memory: bounds, alignment, whole elements, results written once, races.
//
// The kernel calls check_global_access and check_shared_access through its Machine (machine.h) before each load and
// store, and begin_copy and complete_copies for copies. They also count the traffic, and record it for the trace where
// one is wanted.
#pragma once

#include "failure.h"
#include "memory.h"
#include "state.h"
#include "trace.h"

namespace csm {

inline const char* verb(Touch touch) {
  return touch == Touch::read ? "read" : touch == Touch::write ? "write" : "addition";
}

constexpr int kWidest = 16;  // bytes of an instruction's access, of one lane

// ---- global memory ----

// Fails an access that no array allows, with the array that it was probably meant for: one that contains it but has
// another role, else the nearest.
__attribute__((noreturn, noinline)) inline void fail_global(Thread* t, u64 at, int bytes, Touch touch, u32 site) {
  const int wanted = touch == Touch::read ? role_read : role_write;
  const Array* nearest = nullptr;
  int nearest_index = 0;
  u64 nearest_distance = ~0ull;
  for (int i = 0; i < rt.launch.arrays; ++i) {
    const Array& array = rt.launch.array[i];
    if (!array.role) continue;
    const u64 end = array.base + static_cast<u64>(array.span);
    if (at >= array.base && at + static_cast<u64>(bytes) <= end && !(array.role & wanted)) {
      fail(t, "%s of %d bytes at byte %lld of argument %d, which is for %s only (%s)", verb(touch), bytes,
           static_cast<i64>(at - array.base), i, array.role == role_read ? "reading" : "writing", where(site).text);
    }
    const u64 distance = at < array.base ? array.base - at : at >= end ? at - end : 0;
    if (distance < nearest_distance) {
      nearest_distance = distance;
      nearest = &array;
      nearest_index = i;
    }
  }
  if (!nearest) fail(t, "%s of %d bytes, but no array was passed (%s)", verb(touch), bytes, where(site).text);
  fail(t, "%s of %d bytes out of bounds, at byte %lld of argument %d, which has %lld (%s)", verb(touch), bytes,
       static_cast<i64>(at - nearest->base), nearest_index, nearest->span, where(site).text);
}

inline void check_global_access(const void* address, int bytes, Touch touch, bool wanted, int line, const char* file) {
  Thread* t = self();
  const u64 at = reinterpret_cast<u64>(address);
  if (rt.launch.trace) rt.tracer.record(site_of(line, file), t->lane, wanted, at, bytes, touch, false);
  if (!wanted) return;
  const bool reads = touch == Touch::read;
  (reads ? rt.report.global_bytes_read : rt.report.global_bytes_written) += bytes;
  i64& widest = reads ? rt.report.widest_read : rt.report.widest_written;
  if (bytes > widest) widest = bytes < kWidest ? bytes : kWidest;
  if (at & static_cast<u64>(bytes - 1)) {
    fail(t, "misaligned %s of %d bytes at address ...%03llx (%s)", verb(touch), bytes, at & 0xfffull,
         where(site_of(line, file)).text);
  }
  // One array that allows the access is enough: an output may be the input, and then is passed twice.
  const int needed = reads ? role_read : role_write;
  Placement worst = Placement::fine;
  for (int i = 0; i < rt.launch.arrays; ++i) {
    const Array& array = rt.launch.array[i];
    const i64 offset = static_cast<i64>(at - array.base);
    if (!(array.role & needed) || offset < 0 || offset > array.span - bytes) continue;
    i64 element;
    WrittenElements* written = !reads && array.once ? &rt.written[i] : nullptr;
    const Placement found = placement(array, offset, bytes, written, &element);
    if (found == Placement::fine) return;
    if (found == Placement::written_twice) {
      fail(t, "element %lld of argument %d is written a second time (%s)", element, i, where(site_of(line, file)).text);
    }
    worst = found;
  }
  if (worst == Placement::fine) fail_global(t, at, bytes, touch, site_of(line, file));
  fail(t, "%s of %d bytes out of bounds: %s (%s)", verb(touch), bytes,
       worst == Placement::part_of_element ? "not whole elements" : "it lies between the elements of a strided array",
       where(site_of(line, file)).text);
}

// ---- shared memory ----

// True if a barrier guarantees that the access stamped `then` happened before what `t` does now. The order in which the
// emulator happened to run the threads proves nothing.
inline bool ordered(Stamp then, const Thread* t) {
  if (then < rt.oldest) return true;
  const int thread = stamp_thread(then);
  if (thread == t->id) return true;
  const Block* block = rt.thread[thread].block;
  if (block == t->block && stamp_barriers(then) < block->barriers) return true;
  return t->warp->waits > stamp_arrivals(then);
}

__attribute__((noreturn, noinline)) inline void fail_race(Thread* t, i64 offset, Touch touch, u32 site, Stamp then,
                                                          const char* did, u32 then_site) {
  fail(t, "race at byte %lld of shared memory: %s (%s), and %s %s it (%s) with no barrier between", offset, verb(touch),
       where(site).text, who(&rt.thread[stamp_thread(then)]).text, did, where(then_site).text);
}

// The block of the cluster that a remote store goes to: it has to be alive before the store and until the next cluster
// barrier after it.
inline Block* check_remote_block(Thread* t, int rank, u32 site) {
  if (rank >= rt.blocks) {
    fail(t, "remote store to rank %d of a cluster of %d (%s)", rank, rt.blocks, where(site).text);
  }
  Block* block = &rt.block[rank];
  if (block == t->block) return block;
  if (t->warp->waits == 0) {
    fail(t, "remote store to rank %d before the cluster's first barrier: it may not have started (%s)", rank,
         where(site).text);
  }
  if (block->returned == block->warps) {
    fail(t, "remote store to rank %d, which has returned (%s)", rank, where(site).text);
  }
  if (t->warp->arrivals + 1 > block->must_wait_for) block->must_wait_for = t->warp->arrivals + 1;
  return block;
}

inline void* check_shared_access(i64 offset, int bytes, Touch touch, int rank, int line, const char* file) {
  Thread* t = self();
  const u32 site = site_of(line, file);
  Block* block = t->block;
  if (rank >= 0) {
    block = check_remote_block(t, rank, site);
  } else if (rt.launch.trace) {
    rt.tracer.record(site, t->lane, true, static_cast<u64>(offset), bytes, touch, true);
  }
  SharedMemory& shared = block->shared;
  if (offset < 0 || offset > rt.launch.shared_bytes - bytes) {
    fail(t, "shared %s of %d bytes out of bounds, at byte %lld of %lld (%s)", verb(touch), bytes, offset,
         rt.launch.shared_bytes, where(site).text);
  }
  int aligned = 1;  // a power of two, of which some bytes may be unused
  while (aligned < bytes) aligned *= 2;
  if (offset & (aligned - 1)) {
    fail(t, "misaligned shared %s of %d bytes at byte %lld (%s)", verb(touch), bytes, offset, where(site).text);
  }
  if (bytes < 4) shared.split_words();
  const Stamp now = stamp(t->block->barriers, t->warp->arrivals, t->id);
  for (i64 at = offset; at < offset + bytes; at += shared.granule()) {
    Cell& cell = shared.cell(at);
    if (touch != Touch::write && cell.write < rt.oldest) {
      fail(t, "%s of shared memory that nobody wrote, at byte %lld (%s)", verb(touch), at, where(site).text);
    }
    if (touch == Touch::add && cell.read_site == kAdded) {  // additions need no order, but after the write before them
      if (!ordered(cell.read, t)) fail_race(t, at, touch, site, cell.read, "wrote", cell.write_site);
      const Stamp other = stamp_thread(cell.write) == t->id ? cell.other_read : cell.write;
      cell = Cell{now, cell.read, other, site, kAdded};
      continue;
    }
    if (!ordered(cell.write, t)) fail_race(t, at, touch, site, cell.write, "wrote", cell.write_site);
    if (cell.read_site == kAdded && !ordered(cell.other_read, t)) {
      fail_race(t, at, touch, site, cell.other_read, "adds to", cell.write_site);
    }
    if (touch == Touch::read) {
      if (cell.read_site == kAdded) cell.read = 0;
      if (stamp_thread(cell.read) != t->id) cell.other_read = cell.read;
      cell.read = now;
      cell.read_site = site;
    } else {
      if (!ordered(cell.read, t)) fail_race(t, at, touch, site, cell.read, "reads", cell.read_site);
      if (!ordered(cell.other_read, t)) fail_race(t, at, touch, site, cell.other_read, "reads", cell.read_site);
      if (touch == Touch::add) cell = Cell{now, cell.write, 0, site, kAdded};
      else cell = Cell{now, 0, 0, site, 0};
    }
  }
  return shared.data() + offset;
}

// ---- copies from global to shared memory ----

inline void begin_copy(i64 offset, const void* from, int bytes, bool wanted, int line, const char* file) {
  check_global_access(from, bytes, Touch::read, wanted, line, file);
  Thread* t = self();
  if (t->copies == kMostCopies)
    fail(t, "more than %d copies at once (%s)", kMostCopies, where(site_of(line, file)).text);
  t->copy[t->copies++] = Copy{offset, wanted ? from : nullptr, bytes};
}
inline void complete_copies(int line, const char* file) {
  Thread* t = self();
  for (int i = 0; i < t->copies; ++i) {
    const Copy& copy = t->copy[i];
    if (copy.from) {
      void* to = check_shared_access(copy.offset, copy.bytes, Touch::write, -1, line, file);
      memcpy(to, copy.from, static_cast<size_t>(copy.bytes));
    } else if (rt.launch.trace) {
      rt.tracer.record(site_of(line, file), t->lane, false, 0, copy.bytes, Touch::write, true);
    }
  }
  t->copies = 0;
}

// ---- bulk copies ----

inline void publish() {
  Thread* t = self();
  t->published = stamp(t->block->barriers, t->warp->arrivals, t->id);
}

inline void begin_bulk(i64 offset, void* global, i64 bytes, Touch touch, i64 barrier, int line, const char* file) {
  Thread* t = self();
  const char* const place = where(site_of(line, file)).text;
  char* const at = static_cast<char*>(global);
  if (t->bulks == kMostBulks) fail(t, "more than %d bulk copies at once (%s)", kMostBulks, place);
  if (bytes <= 0 || (bytes | offset | static_cast<i64>(reinterpret_cast<u64>(at))) % 16) {
    fail(t, "misaligned bulk copy of %lld bytes (%s)", bytes, place);
  }
  if (touch == Touch::read && (barrier < 0 || barrier != t->barrier)) {
    fail(t, "a bulk copy with a barrier that this thread has not initialized (%s)", place);
  }
  for (i64 i = 0; i < bytes;) {  // a sector is touched once
    const int piece = reinterpret_cast<u64>(at + i) % 32 || bytes - i < 32 ? 16 : 32;
    check_global_access(at + i, piece, touch, true, line, file);
    i += piece;
  }
  t->bulk[t->bulks++] = Bulk{offset, at, bytes, touch};
  t->bulk_site = site_of(line, file);
}

// Does the copies that have been started; returns how many bytes they had.
inline i64 complete_bulk(Touch touch, int line, const char* file) {
  Thread* t = self();
  i64 done = 0;
  int left = 0;
  for (int i = 0; i < t->bulks; ++i) {
    const Bulk bulk = t->bulk[i];
    if (bulk.touch != touch) {
      t->bulk[left++] = bulk;
      continue;
    }
    const bool reads = touch == Touch::read;
    for (i64 k = 0; k < bulk.bytes; k += kWidest) {
      const i64 at = bulk.offset + k;
      void* here = check_shared_access(at, kWidest, reads ? Touch::write : Touch::read, t->block->rank, line, file);
      for (i64 byte = at; !reads && byte < at + kWidest; byte += t->block->shared.granule()) {
        const Stamp written = t->block->shared.cell(byte).write;
        const Thread* writer = &rt.thread[stamp_thread(written)];
        if (written > writer->published) {
          fail(t, "a bulk copy of byte %lld of shared memory, which %s has not published (%s)", byte, who(writer).text,
               where(site_of(line, file)).text);
        }
      }
      memcpy(reads ? here : bulk.global + k, reads ? bulk.global + k : here, kWidest);
    }
    done += bulk.bytes;
  }
  t->bulks = left;
  return done;
}
inline void complete_bulk_writes(int line, const char* file) { complete_bulk(Touch::write, line, file); }

// What a thread does to its barrier. No other may use it.
inline void bulk_barrier(BulkBarrier what, i64 barrier, i64 bytes, int line, const char* file) {
  Thread* t = self();
  const bool starts = what == BulkBarrier::init;
  if (t->barrier != (starts ? -1 : barrier)) {
    fail(t, "a barrier for bulk copies that is %s (%s)", starts ? "not the thread's only one" : "not initialized",
         where(site_of(line, file)).text);
  }
  check_shared_access(barrier, 8, Touch::write, t->block->rank, line, file);
  if (starts || what == BulkBarrier::inval) {
    t->barrier = starts ? barrier : -1;
    t->bulk_site = site_of(line, file);
    t->expected = 0;
  } else if (what == BulkBarrier::expect) {
    t->expected += bytes;
  } else if (const i64 copied = complete_bulk(Touch::read, line, file); copied != t->expected) {
    fail(t, "a wait for %lld bytes of bulk copies that have %lld (%s)", t->expected, copied,
         where(site_of(line, file)).text);
  }
}

}  // namespace csm
