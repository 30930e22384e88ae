// SPDX-License-Identifier: GPL-2.0-or-later
//
// Threads inside a host program that owns the signals: they start with all signals blocked.
#ifndef HOTSNAP_OS_THREAD_H
#define HOTSNAP_OS_THREAD_H

#include <chrono>
#include <functional>
#include <thread>

namespace hotsnap::memory {

// Starts a thread named `name` (at most 15 characters) with every signal blocked. Throws
// std::system_error when the system has no thread to give.
std::thread spawn(const char *name, std::function<void()> body);

// Puts the calling thread ahead of others where the system allows it, and changes nothing where it
// does not. For threads that a guest waits for: on a small host that its vCPUs keep busy, a thread
// of the same priority gets a processor milliseconds late.
void ask_for_priority();

// Puts the calling thread behind others of the program. For work that nobody waits for.
void give_way();

// Real-time priority, the least there is, for a time in which a thread must not be late. Where the
// system does not allow it, or the thread's policy is not the default one, nothing changes. Of the
// thread that calls.
class RealTime {
  public:
    void begin();
    void end();

  private:
    bool on_ = false;
};

// Lets timed waits of the calling thread end on time. The kernel ends those of other threads up to
// 50 us late, to join wake-ups.
void ask_for_exact_timers();

// One step of a spin loop.
inline void relax_cpu() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// The same, in a wait for a thread that only copies. That thread may have lost its processor and
// need ours, so ours is given away after a while. By sleep: to yield would not give it to a thread
// of lower priority.
inline void pause_in_spin(int spins) {
    if (spins < 2000) {
        relax_cpu();
    } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

} // namespace hotsnap::memory
#endif
