// SPDX-License-Identifier: GPL-2.0-or-later
//
// The cases by subject, and their helpers. Each case prints a line as the other test programs do.
#pragma once

#include "trap.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace hotsnap::kvmtest {

// The tests' pages begin here; before them lie programs, stack and page tables.
inline constexpr size_t first = 16;

// The case does not apply here; the text says why.
struct Skipped : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Cases {
  public:
    // Without any `chosen` all cases are run, except those left out.
    Cases(std::set<std::string> left_out, std::set<std::string> chosen)
        : left_out_(std::move(left_out)), chosen_(std::move(chosen)), unknown_(chosen_) {}
    void run(const std::string &name, const std::function<void()> &act);
    int failures() const { return failures_; }
    // Chosen names for which there was no case so far.
    const std::set<std::string> &unknown() const { return unknown_; }

  private:
    std::set<std::string> left_out_, chosen_, unknown_;
    int failures_ = 0;
};

void guest_write_cases(Cases &cases);
void kvm_write_cases(Cases &cases);
void ring_and_life_cases(Cases &cases);
void cost_cases(Cases &cases);

// Runs also where KVM has no traps.
void cost_when_unused();

std::vector<std::byte> copy_of(const Memory &memory);
size_t page_of(const Memory &memory, const kvm_hotsnap_exit &exit);

// A parameter of KVM's modules, such as "kvm_amd/parameters/npt"; empty if there is none.
std::string parameter(const std::string &path);
// Whether KVM shadows the guest's page tables, for want of nested ones.
bool shadow_paging();

// Page tables for two-level paging, which show the memory (at most 4 MiB) at 0 and again at
// `second`. Entries are marked accessed and written, except those for the pages at `second`.
struct PageTables {
    static constexpr size_t directory = 8, table = 9, second_table = 10; // pages
    static constexpr uint64_t second = 4 * MiB;
    explicit PageTables(const Memory &memory);
};

} // namespace hotsnap::kvmtest
