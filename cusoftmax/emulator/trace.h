// Counts sectors and bank conflicts by warp instruction, as the hardware does, for emulator.trace().
//
// The lanes of a warp run one after another here. Between two collectives, the n-th access that each lane makes at one
// place in the source belongs to the same warp instruction. checks.h records the accesses; scheduler.h has them counted
// whenever the lanes of a warp have come together.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "machine.h"

namespace csm {

// One warp instruction.
struct WarpAccess {
  u32 site;
  int bytes;
  Touch touch;
  bool shared;
  u32 lanes;  // a bit for each lane that took part
  u64 address[32];
};

class Tracer {
 public:
  // If not `wanted`, the lane took no part in this instruction, and only its count of accesses goes on.
  void record(u32 site, int lane, bool wanted, u64 address, int bytes, Touch touch, bool shared) {
    if (lane != lane_) {
      for (int i = 0; i < sites_; ++i) site_[i].seen = 0;
      lane_ = lane;
    }
    Site& at = find(site);
    WarpAccess& access = entry(at, at.seen++);
    if (!wanted) return;
    access.site = site;
    access.bytes = bytes;
    access.touch = touch;
    access.shared = shared;
    access.lanes |= 1u << lane;
    access.address[lane] = address;
  }

  // Counts all instructions recorded so far, and forgets them.
  void flush(Report& report) {
    for (int i = 0; i < sites_; ++i) {
      for (int k = 0; k < site_[i].used; ++k) {
        if (site_[i].access[k].lanes) count(site_[i].access[k], report);
      }
      site_[i].used = site_[i].seen = 0;
    }
    lane_ = -1;
  }
  void reset() {
    for (int i = 0; i < sites_; ++i) free(site_[i].access);
    sites_ = 0;
    lane_ = -1;
  }

 private:
  static constexpr int kSites = 8192;  // on PTX each access is a site
  struct Site {
    u32 id;
    int seen;            // accesses of the present lane
    int used, capacity;  // of `access`
    WarpAccess* access;
  };

  Site& find(u32 id) {
    for (int i = 0; i < sites_; ++i) {
      if (site_[i].id == id) return site_[i];
    }
    Site& fresh = site_[sites_ < kSites ? sites_++ : kSites - 1];
    fresh = Site{id, 0, 0, 0, nullptr};
    return fresh;
  }
  WarpAccess& entry(Site& site, int index) {
    if (index >= site.capacity) {
      site.capacity = site.capacity ? 2 * site.capacity : 16;
      site.access = static_cast<WarpAccess*>(
          realloc(static_cast<void*>(site.access), static_cast<size_t>(site.capacity) * sizeof(WarpAccess)));
    }
    while (site.used <= index) site.access[site.used++].lanes = 0;
    return site.access[index];
  }

  // Global memory: the different sectors of 32 bytes that the lanes touch.
  static void count(const WarpAccess& access, Report& report) {
    if (access.shared) {
      report.bank_conflicts += extra_wavefronts(access);
      return;
    }
    u64 sectors[32];
    int different = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (!(access.lanes >> lane & 1)) continue;
      const u64 sector = access.address[lane] / 32;
      int at = different;
      while (at > 0 && sectors[at - 1] != sector) --at;
      if (at == 0) sectors[different++] = sector;
    }
    (access.touch == Touch::read ? report.sectors_read : report.sectors_written) += different;
  }

  // Shared memory: the wavefronts beyond the least. A wavefront serves one word of each of the 32 banks, to any number
  // of lanes, but one addition to a word. Accesses of 8 bytes are served by half warps, those of 16 bytes by quarter
  // warps.
  static int extra_wavefronts(const WarpAccess& access) {
    const int words = access.bytes > 4 ? access.bytes / 4 : 1;
    const int together = 32 / words;
    int extra = 0;
    for (int first = 0; first < 32; first += together) {
      u64 asked[32];
      int depth[32] = {}, asked_count = 0, deepest = 0;
      for (int lane = first; lane < first + together; ++lane) {
        if (!(access.lanes >> lane & 1)) continue;
        for (int w = 0; w < words; ++w) {
          const u64 word = access.address[lane] / 4 + static_cast<u64>(w);
          int at = asked_count;
          while (at > 0 && asked[at - 1] != word) --at;
          if (at > 0 && access.touch != Touch::add) continue;
          asked[asked_count++] = word;
          const int now = ++depth[word % 32];
          if (now > deepest) deepest = now;
        }
      }
      extra += deepest > 0 ? deepest - 1 : 0;
    }
    return extra;
  }

  Site site_[kSites];
  int sites_ = 0;
  int lane_ = -1;
};

}  // namespace csm
