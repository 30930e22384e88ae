// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hotsnap::memory::test {

namespace {

constexpr uint64_t page = 4096;
constexpr uint64_t huge_page = 2 << 20;

bool is_huge(Kind kind) {
    return kind == Kind::huge_memfd || kind == Kind::huge_anonymous;
}

__attribute__((no_sanitize("thread", "address"))) void poke(std::byte *at, uint64_t value) {
    *reinterpret_cast<volatile uint64_t *>(at) = value;
}

uint64_t next(uint64_t &state) { // xorshift64
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

} // namespace

// The machine's huge pages while a test has regions of them. Their number is a setting of the whole
// machine: one program at a time changes it (tests/support/workplace.py locks it, too).
class HugePages {
  public:
    static std::shared_ptr<HugePages> get() {
        static std::weak_ptr<HugePages> shared;
        std::shared_ptr<HugePages> pages = shared.lock();
        if (!pages) {
            pages = std::make_shared<HugePages>();
            shared = pages;
        }
        return pages;
    }

    HugePages() {
        if (lock_ >= 0 && flock(lock_, LOCK_EX) == 0) {
            std::ifstream(path) >> before_;
        }
    }
    ~HugePages() {
        if (lock_ >= 0) {
            std::ofstream(path) << before_;
            close(lock_);
        }
    }
    HugePages(const HugePages &) = delete;
    HugePages &operator=(const HugePages &) = delete;

    // Makes sure that so many more are free, if this machine allows it.
    void add(uint64_t pages) {
        added_ += pages;
        std::ofstream(path) << before_ + added_;
    }

  private:
    static constexpr const char *path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const int lock_ = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t before_ = 0;
    uint64_t added_ = 0;
};

__attribute__((noinline, no_sanitize("thread", "address"))) void guest_write(std::byte *at,
                                                                             uint8_t value) {
    *reinterpret_cast<volatile uint8_t *>(at) = value;
}

__attribute__((noinline, no_sanitize("thread", "address"))) uint8_t
guest_read(const std::byte *at) {
    return *reinterpret_cast<const volatile uint8_t *>(at);
}

Region::Region(std::string name, Kind kind, uint64_t length)
    : name_(std::move(name)), kind_(kind), length_(length) {
    if (is_huge(kind)) {
        huge_pages_ = HugePages::get();
        huge_pages_->add(length / huge_page + 4);
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (kind == Kind::memfd || kind == Kind::private_memfd || kind == Kind::huge_memfd) {
        fd_ = memfd_create("guest", MFD_CLOEXEC | (is_huge(kind) ? MFD_HUGETLB : 0u));
        if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(length)) < 0) {
            why_ = std::string("memfd: ") + std::strerror(errno);
            return;
        }
        flags = kind == Kind::private_memfd ? MAP_PRIVATE : MAP_SHARED;
    } else if (kind == Kind::huge_anonymous) {
        flags |= MAP_HUGETLB;
    }
    void *memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, fd_, 0);
    if (memory == MAP_FAILED) {
        why_ = std::string(is_huge(kind) ? "no huge pages can be reserved: " : "mmap: ") +
               std::strerror(errno);
        return;
    }
    memory_ = static_cast<std::byte *>(memory);
}

Region::~Region() {
    if (memory_ != nullptr) {
        munmap(memory_, length_);
    }
    if (fd_ >= 0) {
        close(fd_);
    }
}

hs_ram_block Region::block() const {
    hs_ram_block block{};
    block.idstr = name_.c_str();
    block.host = memory_;
    block.length = length_;
    block.page_size = is_huge(kind_) ? huge_page : page;
    block.fd = fd_;
    block.shared = fd_ >= 0 && kind_ != Kind::private_memfd;
    return block;
}

MemoryBlock block_of(const Region &region) {
    const hs_ram_block c = region.block();
    MemoryBlock block;
    block.idstr = c.idstr;
    block.host = static_cast<std::byte *>(c.host);
    block.length = c.length;
    block.page_size = c.page_size;
    block.fd = c.fd;
    block.shared = c.shared;
    return block;
}

void Region::fill(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t state = i * 0x9e3779b97f4a7c15u + 1;
        for (uint64_t at = 0; at < page; at += 8) {
            const uint64_t value = next(state);
            std::memcpy(memory_ + i * page + at, &value, sizeof(value));
        }
    }
}

uint64_t Region::populated() const {
    if (fd_ >= 0 && kind_ != Kind::private_memfd) {
        struct stat file;
        fstat(fd_, &file);
        return static_cast<uint64_t>(file.st_blocks) * 512;
    }
    std::vector<unsigned char> resident(length_ / page);
    mincore(memory_, length_, resident.data());
    uint64_t pages = 0;
    for (const unsigned char r : resident) {
        pages += r & 1;
    }
    return pages * page;
}

Writers::Writers(std::vector<const Region *> regions, int threads, uint64_t span)
    : regions_(std::move(regions)), span_(span), tids_(static_cast<size_t>(threads)) {
    for (int i = 0; i < threads; i++) {
        threads_.emplace_back([this, i] { run(i); });
    }
    while (started_ < threads) {
        std::this_thread::yield();
    }
}

Writers::~Writers() {
    stopping_ = true;
    paused_ = false;
    for (std::thread &thread : threads_) {
        thread.join();
    }
}

// Thread 0 walks, the others jump about; each write hits 8 bytes.
void Writers::run(int index) {
    tids_[static_cast<size_t>(index)] = gettid();
    started_++;
    uint64_t state = static_cast<uint64_t>(index) * 77 + 1;
    uint64_t walk = 0;
    for (uint64_t i = 1; !stopping_; i++) {
        if (paused_) {
            parked_++;
            while (paused_ && !stopping_) {
                std::this_thread::yield();
            }
            parked_--;
        }
        const Region &region = *regions_[i % regions_.size()];
        const uint64_t span = std::min(span_, region.length());
        const uint64_t at = index == 0 ? (walk += 1024) % span : next(state) % span;
        poke(region.memory() + at / 8 * 8, state + i);
        writes_.fetch_add(1, std::memory_order_relaxed);
    }
}

void Writers::pause() {
    paused_ = true;
    while (parked_ < static_cast<int>(threads_.size())) {
        std::this_thread::yield();
    }
}

void Writers::wait_writes(uint64_t more) const {
    const uint64_t end = writes_ + more;
    while (writes_ < end) {
        std::this_thread::yield();
    }
}

void Writers::resume() {
    paused_ = false;
    while (parked_ > 0) {
        std::this_thread::yield();
    }
}

Folder::Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "hotsnap-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
        throw std::runtime_error("mkdtemp: " + std::string(std::strerror(errno)));
    }
    path_ = name;
}

Folder::~Folder() {
    std::filesystem::remove_all(path_);
}

size_t Folder::files() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator(path_)) {
        count++;
    }
    return count;
}

} // namespace hotsnap::memory::test
