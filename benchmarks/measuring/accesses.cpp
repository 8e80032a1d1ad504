// Writes down every access to memory that a kernel of the emulator makes, and then lets the emulator make it.
//
// A launch hands the kernel's library the Machine of the emulator (machine.h). `note_attach` takes the library's place,
// puts functions of its own into the Machine, which call those that were there, and hands it on.
#include <stdlib.h>

#include "machine.h"

namespace {

using namespace csm;

enum Kind : int { global_read, global_write, shared_read, shared_write, copy };

struct Note {
  u64 address;  // in global memory
  i64 offset;   // in shared memory
  i64 block;
  int thread, bytes, kind;
  int unused;
};

Machine* machine;
Machine usual;
void (*attach_kernel)(Machine*);
Note* notes;
i64 count, room;

void note(Kind kind, u64 address, i64 offset, int bytes) {
  if (count == room) {
    room = room ? 2 * room : 1 << 16;
    notes = static_cast<Note*>(realloc(notes, static_cast<size_t>(room) * sizeof(Note)));
    if (!notes) abort();
  }
  notes[count++] = Note{address, offset, machine->self->block_index, machine->self->index, bytes, kind, 0};
}

void global_access(const void* address, int bytes, Touch touch, bool wanted, int line, const char* file) {
  if (wanted) note(touch == Touch::read ? global_read : global_write, reinterpret_cast<u64>(address), -1, bytes);
  usual.global_access(address, bytes, touch, wanted, line, file);
}
void* shared_access(i64 offset, int bytes, Touch touch, int rank, int line, const char* file) {
  // What goes to another block of the cluster is no element.
  if (rank < 0) note(touch == Touch::read ? shared_read : shared_write, 0, offset, bytes);
  return usual.shared_access(offset, bytes, touch, rank, line, file);
}
void begin_copy(i64 offset, const void* from, int bytes, bool wanted, int line, const char* file) {
  if (wanted) note(copy, reinterpret_cast<u64>(from), offset, bytes);
  usual.begin_copy(offset, from, bytes, wanted, line, file);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void note_next(void (*attach)(csm::Machine*)) {
  attach_kernel = attach;
  count = 0;
}
EXPORTED void note_attach(csm::Machine* given) {
  machine = given;
  usual = *given;
  given->global_access = global_access;
  given->shared_access = shared_access;
  given->begin_copy = begin_copy;
  attach_kernel(given);
}
EXPORTED csm::i64 note_count() { return count; }
EXPORTED const void* note_first() { return notes; }
