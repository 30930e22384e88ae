// SPDX-License-Identifier: GPL-2.0-or-later
#include "image/image_writer.h"

#include "base/error.h"
#include "os/thread.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

namespace hotsnap::memory {

namespace {

constexpr size_t writes_in_flight = 32;
constexpr size_t most_groups_in_write = (1 << 20) / group_bytes;

} // namespace

struct ImageWriter::Io {
    iocb control{};
    uint64_t offset = 0;
    std::array<iovec, most_groups_in_write> pieces{};
    size_t piece_count = 0;
    size_t first_piece = 0; // pieces before it are written
    std::array<Slot, most_groups_in_write> slots{};
    size_t slot_count = 0;

    uint64_t bytes_left() const {
        uint64_t bytes = 0;
        for (size_t i = first_piece; i < piece_count; i++) {
            bytes += pieces[i].iov_len;
        }
        return bytes;
    }

    void advance(uint64_t bytes) {
        offset += bytes;
        while (bytes > 0) {
            iovec &piece = pieces[first_piece];
            const size_t some = std::min<size_t>(bytes, piece.iov_len);
            piece.iov_base = static_cast<std::byte *>(piece.iov_base) + some;
            piece.iov_len -= some;
            bytes -= some;
            first_piece += piece.iov_len == 0;
        }
    }
};

ImageWriter::ImageWriter(const std::string &path, uint64_t data_size, StagingPool &pool,
                         std::function<void(const std::string &)> on_error)
    : path_(path), pool_(pool), on_error_(std::move(on_error)), event_(eventfd(0, EFD_CLOEXEC)),
      sums_(page_bytes), data_size_(data_size), ios_(writes_in_flight), slot_uses_(pool.slots()) {
    if (!event_) {
        throw system_error(errno, "cannot make an eventfd", "raise the limit of open files");
    }
    bool direct = true;
    fd_ = create_exclusive(path, direct);
    direct_ = direct;
    try {
        // The full size first: writes that extend a file are not asynchronous on Linux.
        if (ftruncate(fd_.get(), static_cast<off_t>(data_size)) < 0) {
            throw Error(write_failure(errno, path));
        }
        sums_.resize(data_size);
        for (Io &io : ios_) {
            free_ios_.push_back(&io);
        }
        // Without a context (fs.aio-max-nr is used up) writes are plain, one after the other.
        if (io_setup(writes_in_flight, &context_) < 0) {
            context_ = nullptr;
        }
        thread_ = spawn("hs-writer", [this] { run(); });
    } catch (...) {
        if (context_ != nullptr) {
            io_destroy(context_);
        }
        unlink(path.c_str());
        throw;
    }
}

ImageWriter::~ImageWriter() {
    discarding_ = true;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake();
    thread_.join();
    if (context_ != nullptr) {
        io_destroy(context_);
    }
}

void ImageWriter::wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t ignored = write(event_.get(), &one, sizeof(one));
}

void ImageWriter::submit(std::span<const StagedGroup> groups) {
    if (groups.empty()) {
        return;
    }
    bool asleep;
    {
        const std::lock_guard lock(mutex_);
        queue_.insert(queue_.end(), groups.begin(), groups.end());
        unfinished_ += groups.size();
        asleep = std::exchange(sleeping_, false);
    }
    if (asleep) {
        wake();
    }
}

bool ImageWriter::drain() {
    std::unique_lock lock(mutex_);
    drained_.wait(lock, [this] { return unfinished_ == 0; });
    return !discarding_;
}

void ImageWriter::discard() {
    discarding_ = true;
    wake();
}

void ImageWriter::run() {
    ask_for_priority(); // a fault that finds no free slot waits for this thread
    for (;;) {
        bool stopping;
        {
            const std::lock_guard lock(mutex_);
            for (const StagedGroup &group : queue_) {
                slot_uses_[pool_.index_of(group.slot)] = 1; // for its place in taken_
            }
            taken_.insert(taken_.end(), queue_.begin(), queue_.end());
            queue_.clear();
            stopping = stopping_;
        }
        if (discarding_) {
            drop_taken();
        }
        while (!free_ios_.empty() && !taken_.empty()) {
            Io *io = free_ios_.back();
            free_ios_.pop_back();
            prepare(*io);
            prepared_.push_back(io);
        }
        submit_prepared();
        if (stopping && taken_.empty() && free_ios_.size() == ios_.size()) {
            return;
        }
        wait_for_work();
        reap();
    }
}

// Joins pages that are neighbors in the file, across groups, into one write.
void ImageWriter::prepare(Io &io) {
    io.piece_count = io.first_piece = io.slot_count = 0;
    for (;;) {
        StagedGroup &group = taken_.front();
        const unsigned start = static_cast<unsigned>(std::countr_zero(group.mask));
        const unsigned length =
            static_cast<unsigned>(std::countr_one(static_cast<unsigned>(group.mask) >> start));
        if (io.piece_count == 0) {
            io.offset = group.offset + start * page_bytes;
        }
        io.pieces[io.piece_count++] = {group.slot + start * page_bytes, length * page_bytes};
        io.slots[io.slot_count++] = group.slot;
        slot_uses_[pool_.index_of(group.slot)]++;
        group.mask &= static_cast<GroupMask>(~(((1u << length) - 1) << start));
        const uint64_t end = group.offset + (start + length) * page_bytes;
        if (group.mask != 0) {
            return;
        }
        const Slot done = group.slot;
        taken_.pop_front();
        let_go(done);
        if (taken_.empty() || io.piece_count == io.pieces.size() || taken_.front().offset != end ||
            (taken_.front().mask & 1) == 0) {
            return;
        }
    }
}

// Starts a write that completes through reap(), or does it at once and returns its result.
std::optional<long> ImageWriter::begin(Io &io) {
    const iovec *pieces = io.pieces.data() + io.first_piece;
    const int count = static_cast<int>(io.piece_count - io.first_piece);
    const auto offset = static_cast<long long>(io.offset);
    if (context_ != nullptr) {
        io_prep_pwritev(&io.control, fd_.get(), pieces, count, offset);
        io_set_eventfd(&io.control, event_.get());
        io.control.data = &io;
        iocb *control = &io.control;
        if (io_submit(context_, 1, &control) == 1) {
            return std::nullopt;
        }
    }
    const ssize_t n = pwritev(fd_.get(), pieces, count, offset);
    return n < 0 ? -errno : n;
}

void ImageWriter::start(Io &io) {
    for (;;) {
        const std::optional<long> result = begin(io);
        if (!result || !settle(io, *result)) {
            return;
        }
    }
}

void ImageWriter::submit_prepared() {
    for (Io *io : prepared_) {
        // Before the write starts, since its completion gives the slots back.
        uint64_t offset = io->offset;
        for (size_t i = 0; i < io->piece_count; i++) {
            const iovec &piece = io->pieces[i];
            sums_.add(offset, {static_cast<const std::byte *>(piece.iov_base), piece.iov_len});
            offset += piece.iov_len;
        }
        start(*io);
    }
    prepared_.clear();
}

void ImageWriter::wait_for_work() {
    {
        const std::lock_guard lock(mutex_);
        if (!free_ios_.empty() && (!queue_.empty() || !taken_.empty())) {
            return;
        }
        if (stopping_ && free_ios_.size() == ios_.size()) {
            return;
        }
        sleeping_ = true;
    }
    uint64_t count;
    [[maybe_unused]] const ssize_t ignored = read(event_.get(), &count, sizeof(count));
    const std::lock_guard lock(mutex_);
    sleeping_ = false;
}

void ImageWriter::reap() {
    if (context_ == nullptr || free_ios_.size() == ios_.size()) {
        return;
    }
    std::array<io_event, writes_in_flight> events;
    timespec none{};
    const int n = io_getevents(context_, 0, events.size(), events.data(), &none);
    for (int i = 0; i < n; i++) {
        const io_event &event = events[static_cast<size_t>(i)];
        Io &io = *static_cast<Io *>(event.data);
        if (settle(io, static_cast<long>(event.res))) {
            start(io);
        }
    }
}

// Takes note of the result of a write; true when the rest of it has to be started again.
bool ImageWriter::settle(Io &io, long result) {
    if (result > 0) {
        written_.fetch_add(static_cast<uint64_t>(result), std::memory_order_relaxed);
        io.advance(static_cast<uint64_t>(result));
    } else if (result == -EINVAL && direct_) {
        // The file accepted O_DIRECT at open, but not for this write (alignment of the device).
        fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) & ~O_DIRECT);
        direct_ = false;
    } else if (result != -EAGAIN && result != -EINTR) {
        fail(write_failure(result == 0 ? EIO : static_cast<int>(-result), path_));
    }
    if (io.first_piece == io.piece_count || discarding_) {
        retire(io);
        return false;
    }
    return true;
}

void ImageWriter::retire(Io &io) {
    for (size_t i = 0; i < io.slot_count; i++) {
        let_go(io.slots[i]);
    }
    free_ios_.push_back(&io);
}

void ImageWriter::let_go(Slot slot) {
    if (--slot_uses_[pool_.index_of(slot)] != 0) {
        return;
    }
    pool_.release({&slot, 1});
    const std::lock_guard lock(mutex_);
    if (--unfinished_ == 0) {
        drained_.notify_all();
    }
}

void ImageWriter::drop_taken() {
    while (!taken_.empty()) {
        const Slot slot = taken_.front().slot;
        taken_.pop_front();
        let_go(slot);
    }
}

void ImageWriter::fail(const std::string &message) {
    if (!discarding_.exchange(true)) {
        on_error_(message);
    }
}

void ImageWriter::write_metadata(uint64_t offset, std::span<const std::byte> bytes) {
    // Through the page cache: lengths need no alignment there, and nothing that O_DIRECT wrote lies
    // in the same pages of the file.
    fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) & ~O_DIRECT);
    write_all(fd_.get(), bytes, offset, path_);
    written_.fetch_add(bytes.size(), std::memory_order_relaxed);
    if (offset >= data_size_) {
        // The metadata after the pages ends the file, in a unit that may be short.
        sums_.resize(offset + bytes.size());
        sums_.add(offset, bytes);
    } else {
        std::vector<std::byte> padded(bytes.begin(), bytes.end());
        padded.resize((bytes.size() + page_bytes - 1) & ~(page_bytes - 1));
        sums_.add(offset, padded);
    }
}

void ImageWriter::finish(uint64_t size) {
    if (ftruncate(fd_.get(), static_cast<off_t>(size)) < 0 || fsync(fd_.get()) < 0) {
        throw Error(write_failure(errno, path_));
    }
    sync_directory_of(path_);
}

} // namespace hotsnap::memory
