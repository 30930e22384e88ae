// SPDX-License-Identifier: GPL-2.0-or-later
//
// Engine "none": traps nothing. Its image is torn on purpose: it is the negative control, which
// shows that a checker of images notices a torn one.
#ifndef HOTSNAP_TRAP_NONE_TRAP_H
#define HOTSNAP_TRAP_NONE_TRAP_H

#include "trap/write_trap.h"

namespace hotsnap::memory {

class NoneTrap : public WriteTrap {
  public:
    const char *name() const override { return "none"; }
    bool traps() const override { return false; }
    void attach(const GuestMemory &) override {}
    void prepare(const PageRun &) override {}
    void arm(const PageRun &) override {}
    void release(const PageRun &) override {}
    size_t next_faults(std::span<WriteFault>) override { return 0; }
    void wait() override {}
    void wake() override {}
    void detach(bool) override {}
};

} // namespace hotsnap::memory
#endif
