// Which thread runs when, and the collectives in which threads wait for each other.
//
// Each CUDA thread is a fiber. The lanes of a warp run one after another in a ring: a lane runs until it reaches a
// collective (a shuffle or a barrier), then the next lane runs. The last lane to reach it completes the collective and
// goes on at once, so that a collective costs about one switch of fibers a lane. A warp keeps its turn until a barrier
// holds it up; on PTX it may lose it before any access of memory. The order of the lanes and the next warp are drawn
// from the launch's seed.
//
// runtime.cpp calls run_cluster(); a kernel calls exchange_values() and reach_barrier() through its Machine
// (machine.h).
#pragma once

#include <stdlib.h>

#include "failure.h"
#include "state.h"

namespace csm {

// ---- turns ----

// A random number from 0 to below - 1 (xorshift).
inline u32 draw(u32 below) {
  rt.random ^= rt.random << 13;
  rt.random ^= rt.random >> 7;
  rt.random ^= rt.random << 17;
  return static_cast<u32>((rt.random >> 32) * below >> 32);
}

inline void run_now(Thread* next) {
  Thread* from = self();
  rt.machine.self = next;
  switch_fiber(&from->fiber, &next->fiber);
}

// Puts a warp among those that could run, with its lanes in a new order: all of them wait at the same place.
inline void make_ready(Warp* warp) {
  int order[kWarp] = {};
  for (int i = 0; i < warp->lanes; ++i) order[i] = i;
  for (int i = warp->lanes - 1; i > 0; --i) {
    const int other = static_cast<int>(draw(static_cast<u32>(i) + 1));
    const int kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  for (int i = 0; i < warp->lanes; ++i) {
    warp->lane[order[i]].next = &warp->lane[order[i + 1 < warp->lanes ? i + 1 : 0]];
  }
  warp->resume = &warp->lane[order[0]];
  warp->state = State::ready;
  rt.ready[rt.ready_count++] = warp;
}

// Draws the warp whose turn it is; returns its lane that runs first.
inline Thread* take_ready() {
  const u32 chosen = draw(static_cast<u32>(rt.ready_count));
  Warp* warp = rt.ready[chosen];
  rt.ready[chosen] = rt.ready[--rt.ready_count];
  return warp->resume;
}

// The warp of the thread that runs now has to wait: another warp's turn or, if none is ready, run_cluster() goes on.
inline void leave_warp() {
  if (rt.ready_count) {
    Thread* next = take_ready();
    if (next != self()) run_now(next);
  } else {
    switch_fiber(&self()->fiber, &rt.scheduler);
  }
}

// Now and then lets another warp run before this thread goes on: what a result may not depend on. Not while the
// accesses of a warp are traced, which the tracer takes to follow each other.
inline void may_switch_warp() {
  if (!rt.ready_count || rt.launch.trace || draw(64)) return;
  Warp* warp = self()->warp;
  warp->resume = self();
  rt.ready[rt.ready_count++] = warp;
  leave_warp();
}

// Where the lanes of a warp have come together: their accesses since the last time are counted by warp instruction.
inline void count_accesses() {
  if (rt.launch.trace) rt.tracer.flush(rt.report);
}

// ---- collectives of a warp ----

// Waits until all lanes of the warp have reached the same collective with the same arguments. Returns true in the last
// one, which goes on at once, and false in the others, when it is their turn again.
inline bool meet_warp(Thread* t, Collective kind, u32 site, int lane_mask, int width) {
  Warp* warp = t->warp;
  Meeting& meeting = warp->meeting;
  if (warp->returned) {
    Thread* other = warp->lane;
    while (other->next) ++other;
    fail(t, "divergent %s (%s): thread %d of the same warp has returned", name_of(kind), where(site).text,
         other->index);
  }
  if (warp->arrived == 0) {
    meeting = Meeting{kind, site, lane_mask, width, t};
  } else if (meeting.kind != kind || meeting.site != site) {
    fail(t, "divergent %s (%s): thread %d of the same warp is at %s (%s)", name_of(kind), where(site).text,
         meeting.first->index, name_of(meeting.kind), where(meeting.site).text);
  } else if (meeting.lane_mask != lane_mask || meeting.width != width) {
    fail(t, "divergent %s (%s): lane mask %d, width %d, but thread %d gives %d, %d", name_of(kind), where(site).text,
         lane_mask, width, meeting.first->index, meeting.lane_mask, meeting.width);
  }
  if (++warp->arrived == warp->lanes) {
    warp->arrived = 0;
    count_accesses();
    return true;
  }
  run_now(t->next);
  return false;
}

// Shuffles return what another lane offered, votes what all did.
inline u64 exchange_values(Collective kind, u64 value, int lane, int width, int line, const char* file) {
  Thread* t = self();
  Warp* warp = t->warp;
  const u32 site = site_of(line, file);
  if (width < 1 || width > kWarp || (width & (width - 1))) {
    fail(t, "%s (%s): width %d is no power of two up to 32", name_of(kind), where(site).text, width);
  }
  const bool by_xor = kind == Collective::shuffle_xor;
  if (by_xor && (lane < 0 || lane >= width)) {
    fail(t, "%s (%s): lane mask %d leaves the group of %d lanes", name_of(kind), where(site).text, lane, width);
  }
  if (warp->lanes < kWarp) {
    fail(t, "%s (%s): names 32 lanes, but this warp has %d", name_of(kind), where(site).text, warp->lanes);
  }
  // Two buffers by turns: a lane may offer its next value before all others have taken this one.
  const int parity = warp->parity;
  u64* offered = warp->offered[parity];
  offered[t->lane] = value;
  if (meet_warp(t, kind, site, by_xor ? lane : 0, width)) {
    warp->parity = 1 - parity;
    ++rt.report.shuffles;
  }
  if (kind == Collective::vote) {
    u64 bits = 0;
    for (int i = 0; i < kWarp; ++i) bits |= static_cast<u64>(offered[i] != 0) << i;
    return bits;
  }
  return offered[by_xor ? t->lane ^ lane : (t->lane & ~(width - 1)) | (lane & (width - 1))];
}

// ---- barriers of a block and of a cluster ----

inline void release_block(Block& block) {
  block.at_barrier = 0;
  ++block.barriers;
  ++rt.report.barriers;
  // A cluster barrier that one warp has passed is now behind all of them.
  u32 waits = 0;
  for (int i = 0; i < block.warps; ++i) waits = block.warp[i].waits > waits ? block.warp[i].waits : waits;
  for (int i = 0; i < block.warps; ++i) {
    block.warp[i].waits = waits;
    make_ready(&block.warp[i]);
  }
}

inline void release_cluster() {
  rt.cluster_arrived = 0;
  ++rt.cluster_phase;
  ++rt.report.cluster_barriers;
  for (int i = 0; i < rt.warps; ++i) {
    if (rt.warp[i].state != State::at_cluster_wait) continue;
    rt.warp[i].waits = rt.warp[i].arrivals;
    make_ready(&rt.warp[i]);
  }
}

// Fails unless all warps of the block or cluster reach this barrier from the same line of the source. The first one
// stores where it is in `agreed`.
inline void same_place(Thread* t, Meeting& agreed, bool first, const char* whole) {
  const Meeting& mine = t->warp->meeting;
  if (first) {
    agreed = mine;
  } else if (agreed.site != mine.site) {
    fail(t, "divergent %s (%s): %s of the same %s is at %s", name_of(mine.kind), where(mine.site).text,
         who(agreed.first).text, whole, where(agreed.site).text);
  }
}

inline void reach_barrier(Collective kind, int line, const char* file) {
  Thread* t = self();
  const u32 site = site_of(line, file);
  if (!meet_warp(t, kind, site, 0, 0)) return;
  Warp* warp = t->warp;
  Block* block = t->block;
  if (kind == Collective::block_barrier) {
    same_place(t, block->meeting, block->at_barrier == 0, "block");
    warp->state = State::at_block_barrier;
    if (++block->at_barrier == block->warps) release_block(*block);
    leave_warp();
  } else if (kind == Collective::cluster_arrive) {
    if (warp->arrivals != warp->waits) fail(t, "cluster_arrive (%s): twice without cluster_wait", where(site).text);
    same_place(t, rt.cluster_meeting, rt.cluster_arrived == 0, "cluster");
    ++warp->arrivals;
    if (++rt.cluster_arrived == rt.warps) release_cluster();
  } else {
    if (warp->arrivals == warp->waits) fail(t, "cluster_wait (%s): without cluster_arrive", where(site).text);
    if (rt.cluster_phase >= warp->arrivals) {
      warp->waits = warp->arrivals;
    } else {
      warp->state = State::at_cluster_wait;
      leave_warp();
    }
  }
}

// ---- a cluster from start to end ----

// What each fiber runs: the kernel, then the end of the thread.
inline void thread_main() {
  Thread* t = self();
  rt.launch.enter(rt.launch.args);
  Warp* warp = t->warp;
  if (warp->arrived) {
    const Meeting& meeting = warp->meeting;
    fail(t, "divergent %s: returned while thread %d of the same warp waits at %s (%s)", name_of(meeting.kind),
         meeting.first->index, name_of(meeting.kind), where(meeting.site).text);
  }
  if (t->bulks || t->barrier >= 0) {
    fail(t, "the thread returns before its bulk copies have finished (%s)", where(t->bulk_site).text);
  }
  if (rt.stacks.overrun(t->id)) fail(t, "stack overrun: more than %zu KiB", kStackBytes / 1024);
  Thread* next = t->next;
  t->next = nullptr;
  if (++warp->returned < warp->lanes) {
    run_now(next);
  } else {
    count_accesses();
    warp->state = State::gone;
    ++t->block->returned;
    ++rt.warps_gone;
    leave_warp();
  }
  __builtin_unreachable();
}

inline bool reserve_threads(int threads, int warps) {
  if (threads > rt.thread_capacity) {
    free(static_cast<void*>(rt.thread));
    rt.thread = static_cast<Thread*>(calloc(static_cast<size_t>(threads), sizeof(Thread)));
    rt.thread_capacity = rt.thread ? threads : 0;
  }
  if (warps > rt.warp_capacity) {
    free(static_cast<void*>(rt.warp));
    free(static_cast<void*>(rt.ready));
    rt.warp = static_cast<Warp*>(calloc(static_cast<size_t>(warps), sizeof(Warp)));
    rt.ready = static_cast<Warp**>(calloc(static_cast<size_t>(warps), sizeof(Warp*)));
    rt.warp_capacity = rt.warp && rt.ready ? warps : 0;
  }
  return rt.thread_capacity >= threads && rt.warp_capacity >= warps && rt.stacks.reserve(threads);
}

// Makes the fibers of a cluster; its number is `cluster`.
inline void set_up_cluster(i64 cluster) {
  const int threads = rt.launch.block;
  const int warps = (threads + kWarp - 1) / kWarp;
  rt.ready_count = rt.cluster_arrived = rt.warps_gone = 0;
  rt.cluster_phase = 0;
  // Stamps of earlier clusters are smaller than this one's and need not be cleared. Before the count of barriers
  // overflows, everything is cleared and the count starts again.
  if (rt.next_barrier > 1u << 30) {
    for (int b = 0; b < rt.blocks; ++b) rt.block[b].shared.forget_accesses();
    rt.next_barrier = 0;
  }
  ++rt.next_barrier;
  rt.oldest = stamp(rt.next_barrier, 0, 0);
  for (int b = 0; b < rt.blocks; ++b) {
    Block& block = rt.block[b];
    block.warp = rt.warp + b * warps;
    block.thread = rt.thread + b * threads;
    block.rank = b;
    block.warps = warps;
    block.returned = block.at_barrier = 0;
    block.barriers = rt.next_barrier;
    block.must_wait_for = 0;
    block.shared.poison();
    for (int w = 0; w < warps; ++w) {
      Warp& warp = block.warp[w];
      warp.block = &block;
      warp.lane = block.thread + w * kWarp;
      warp.lanes = threads - w * kWarp < kWarp ? threads - w * kWarp : kWarp;
      warp.arrived = warp.returned = warp.parity = 0;
      warp.arrivals = warp.waits = 0;
    }
    for (int i = 0; i < threads; ++i) {
      Thread& t = block.thread[i];
      t.index = i;
      t.block_threads = threads;
      t.cluster_rank = b;
      t.block_index = cluster * rt.blocks + b;
      t.grid_blocks = rt.launch.grid;
      t.lane = i % kWarp;
      t.copies = t.bulks = 0;
      t.barrier = -1;
      t.published = 0;
      t.id = b * threads + i;
      t.warp = &block.warp[i / kWarp];
      t.block = &block;
      rt.stacks.mark(t.id);
      make_fiber(&t.fiber, rt.stacks.at(t.id), thread_main);
    }
    for (int w = 0; w < warps; ++w) make_ready(&block.warp[w]);
  }
}

// Where a warp is, for the message about those that wait for it.
inline Text standing(const Warp* warp) {
  Text out;
  if (warp->state == State::gone) {
    snprintf(out.text, sizeof out.text, "has returned");
  } else {
    snprintf(out.text, sizeof out.text, "is at %s (%s)", name_of(warp->meeting.kind), where(warp->meeting.site).text);
  }
  return out;
}

// Called when no warp can run and not all have returned: reports a barrier that waits in vain, and a warp that it waits
// for.
inline void explain_deadlock() {
  for (int i = 0; i < rt.warps; ++i) {
    const Warp& waiting = rt.warp[i];
    if (waiting.state == State::gone) continue;
    const bool in_block = waiting.state == State::at_block_barrier;  // else it waits for the cluster
    const int first = in_block ? static_cast<int>(waiting.block->warp - rt.warp) : 0;
    const int count = in_block ? waiting.block->warps : rt.warps;
    for (int k = first; k < first + count; ++k) {
      const Warp& other = rt.warp[k];
      if (in_block ? other.state == State::at_block_barrier : other.arrivals >= waiting.arrivals) continue;
      fail_outside(waiting.lane, "divergent %s (%s): waits for %s, which %s", name_of(waiting.meeting.kind),
                   where(waiting.meeting.site).text, who(other.lane).text, standing(&other).text);
      return;
    }
  }
  fail_outside(nullptr, "deadlock");
}

// A block that other blocks write to may return only after a cluster barrier that follows those stores. In this run it
// may have been alive by chance, so that what counts is whether there was such a barrier.
inline void check_remote_writes() {
  for (int b = 0; b < rt.blocks; ++b) {
    const Block& block = rt.block[b];
    u32 waits = 0;
    for (int w = 0; w < block.warps; ++w) waits = block.warp[w].waits > waits ? block.warp[w].waits : waits;
    if (waits < block.must_wait_for) {
      fail_outside(block.thread,
                   "remote store: the block may have returned before another block of its cluster "
                   "wrote to its shared memory; no cluster barrier follows the store");
    }
  }
}

// Runs all blocks of one cluster. Returns when all threads have, or at the first failure.
inline void run_cluster(i64 cluster) {
  set_up_cluster(cluster);
  Thread* first = take_ready();
  rt.machine.self = first;
  switch_fiber(&rt.scheduler, &first->fiber);
  if (!rt.failed && rt.warps_gone < rt.warps) explain_deadlock();
  if (!rt.failed) check_remote_writes();
  for (int b = 0; b < rt.blocks; ++b) {
    if (rt.block[b].barriers > rt.next_barrier) rt.next_barrier = rt.block[b].barriers;
  }
}

}  // namespace csm
