// SPDX-License-Identifier: GPL-2.0-or-later
#include "trap/uffd_events.h"

#include "base/error.h"

#include <cerrno>
#include <poll.h>
#include <unistd.h>

namespace hotsnap::memory {

size_t read_page_faults(int uffd, std::span<uffd_msg> messages, const char *what) {
    const ssize_t bytes = read(uffd, messages.data(), messages.size_bytes());
    if (bytes < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return 0;
        }
        throw system_error(errno, what);
    }
    const auto came = messages.first(static_cast<size_t>(bytes) / sizeof(uffd_msg));
    const auto others = std::ranges::remove_if(
        came, [](const uffd_msg &message) { return message.event != UFFD_EVENT_PAGEFAULT; });
    return came.size() - others.size();
}

void wait_for_faults(int uffd, int wake, int milliseconds) {
    std::array<pollfd, 2> fds{{{uffd, POLLIN, 0}, {wake, POLLIN, 0}}};
    poll(fds.data(), fds.size(), milliseconds);
    uint64_t count;
    if ((fds[1].revents & POLLIN) != 0 && read(wake, &count, sizeof(count)) < 0) {
        return; // another thread took the token
    }
}

void wake_waiter(int wake) {
    const uint64_t one = 1;
    // EAGAIN: the counter is full, which wakes as well.
    [[maybe_unused]] const ssize_t ignored = write(wake, &one, sizeof(one));
}

} // namespace hotsnap::memory
