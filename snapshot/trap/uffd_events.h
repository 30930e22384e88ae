// SPDX-License-Identifier: GPL-2.0-or-later
//
// The faults that a userfaultfd tells of, for a thread that waits for them and can be woken by an
// eventfd. Both descriptors do not block.
#ifndef HOTSNAP_TRAP_UFFD_EVENTS_H
#define HOTSNAP_TRAP_UFFD_EVENTS_H

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <linux/userfaultfd.h>
#include <span>

namespace hotsnap::memory {

// Page faults only, for which the handshake asked; 0 when none waits. Throws Error with `what` when
// they cannot be read.
size_t read_page_faults(int uffd, std::span<uffd_msg> messages, const char *what);

// The same as Faults, which consist of an address and a thread.
template <typename Fault>
size_t read_page_faults(int uffd, std::span<Fault> faults, const char *what) {
    std::array<uffd_msg, 64> messages;
    const size_t most = std::min(messages.size(), faults.size());
    const size_t count = read_page_faults(uffd, std::span(messages).first(most), what);
    for (size_t i = 0; i < count; i++) {
        const auto &fault = messages[i].arg.pagefault;
        faults[i] = {fault.address, static_cast<int>(fault.feat.ptid)};
    }
    return count;
}

// Returns when a fault or a wake-up has come, or the time is over; -1: there is no limit. The
// wake-up is taken.
void wait_for_faults(int uffd, int wake, int milliseconds);
void wake_waiter(int wake);

} // namespace hotsnap::memory
#endif
