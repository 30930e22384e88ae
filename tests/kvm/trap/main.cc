// SPDX-License-Identifier: GPL-2.0-or-later
//
// The write traps of the patched KVM, seen from a machine of a few bytes of code.
//
// --without NAME leaves out a case; with --only NAME, only the named cases are run. --unused only
// measures, also where KVM has no traps.
#include "cases.h"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/ioctl.h>

using namespace hotsnap::kvmtest;

int main(int argc, char **argv) {
    std::set<std::string> left_out, chosen;
    for (int i = 1; i < argc; i++) {
        if (std::strcmp(argv[i], "--unused") == 0) {
            cost_when_unused();
            return 0;
        }
        if (std::strcmp(argv[i], "--without") == 0 && i + 1 < argc) {
            left_out.insert(argv[++i]);
        }
        if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            chosen.insert(argv[++i]);
        }
    }
    const Fd kvm(open("/dev/kvm", O_RDWR));
    if (kvm.get() < 0 ||
        ioctl(kvm.get(), KVM_CHECK_EXTENSION, KVM_CAP_HOTSNAP) != KVM_HOTSNAP_VERSION) {
        std::printf("not ok capability - this KVM has no write traps\n");
        return 1;
    }
    Cases cases(left_out, chosen);
    guest_write_cases(cases);
    kvm_write_cases(cases);
    ring_and_life_cases(cases);
    cost_cases(cases);
    for (const std::string &name : cases.unknown()) {
        std::printf("not ok %s - there is no such case\n", name.c_str());
    }
    std::printf("# all cases ran\n");
    return cases.failures() == 0 && cases.unknown().empty() ? 0 : 1;
}
