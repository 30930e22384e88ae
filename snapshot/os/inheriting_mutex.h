// SPDX-License-Identifier: GPL-2.0-or-later
//
// A mutex whose holder runs with the priority of the threads that wait for it. For locks that a
// thread of real-time priority takes while others hold them for longer than an instant: on a host
// whose processors are all taken, a holder that lost its processor would keep it waiting for tens
// of milliseconds.
#ifndef HOTSNAP_OS_INHERITING_MUTEX_H
#define HOTSNAP_OS_INHERITING_MUTEX_H

#include <pthread.h>

namespace hotsnap::memory {

// Lockable, for std::lock_guard. Not recursive.
class InheritingMutex {
  public:
    InheritingMutex() {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
        pthread_mutex_init(&mutex_, &attributes);
        pthread_mutexattr_destroy(&attributes);
    }
    ~InheritingMutex() { pthread_mutex_destroy(&mutex_); }
    InheritingMutex(const InheritingMutex &) = delete;
    InheritingMutex &operator=(const InheritingMutex &) = delete;

    void lock() { pthread_mutex_lock(&mutex_); }
    void unlock() { pthread_mutex_unlock(&mutex_); }

  private:
    pthread_mutex_t mutex_;
};

} // namespace hotsnap::memory
#endif
