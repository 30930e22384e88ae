// SPDX-License-Identifier: GPL-2.0-or-later
// The packet mediator of one member; hotsnap/mediator.h holds the contract.
#ifndef HOTSNAP_NETWORK_MEDIATOR_H
#define HOTSNAP_NETWORK_MEDIATOR_H

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hotsnap/mediator.h"
#include "network/address_table.h"
#include "network/channel_counts.h"
#include "network/channel_record.h"
#include "network/contacts.h"
#include "network/frame.h"
#include "network/hearing.h"
#include "network/hold_queue.h"
#include "network/marks.h"
#include "network/member_table.h"
#include "network/source_table.h"

namespace hotsnap::network {

class Mediator {
  public:
    static constexpr uint32_t not_in_table = UINT32_MAX;
    // As long as switches remember an address, by default.
    static constexpr int64_t remembered_ns = 300'000'000'000;
    static constexpr size_t most_sources = 256; // of a NIC; its table has room for 512
    struct Nic {
        std::string name;
        Mac mac;
        size_t vnet_size = 0;
        uint32_t queues = 1;
        bool present = true;
        SourceTable sources;    // that the guest sends for, beside its own
        SourceTable::Entry own; // its own
        SourceTable neighbors;  // that it hears, with natural MACs
        AddressTable addresses; // that the guest claims
        AddressTable claimed_by_neighbors;
        uint32_t in_table = not_in_table; // its index there, in an epoch
    };

    Mediator();

    uint32_t add_nic(std::string name, Mac mac, size_t vnet_size, uint32_t queues = 1);
    void remove_nic(uint32_t nic);
    const std::vector<Nic> &nics() const { return nics_; }

    // Our NICs, with the MACs that they have sent for lately, and the IP addresses behind them.
    std::vector<MemberNic> list_nics();
    bool prepare(uint64_t epoch, std::string_view self, std::vector<Member> members, bool coloring,
                 std::string &error);
    void probe(); // the probes are ready for release then
    void start_coloring();
    bool armed(); // whether a cut is due
    void cut();
    void mark(); // the marks are ready for release then
    PairCounts white_sent() const;
    PairCounts heard() const { return hearing_.all(table_); }
    bool expect(const PairCounts &expected, const PairCounts &marks, std::string &error);
    PairCounts unexpected() const { return counts_.unexpected(); }
    bool channels_complete() const { return closed_; }
    bool awaits_empty() const { return marks_.awaits_empty(); }
    void queue_empty(uint32_t nic, uint32_t queue);
    void close_channels();
    void end_coloring();
    void reset();

    // A frame of which `head` bytes are at hand; `copy` writes those behind them.
    struct Part {
        size_t head;
        hs_copy_rest copy;
        void *opaque;
    };

    // `source` is the frame's source MAC as it must go on.
    hs_verdict frame(const hs_frame &frame, int64_t now_ns, Mac &source) {
        return this->frame(frame, {frame.size, nullptr, nullptr}, now_ns, source);
    }
    hs_verdict frame(const hs_frame &frame, const Part &part, int64_t now_ns, Mac &source);
    void undelivered(uint64_t frames) { stats_.dropped += frames; }
    bool next_released(hs_frame &frame, int64_t now_ns);

    // mediator_senders.cc
    void played(const hs_frame &frame, int64_t now_ns);
    bool has_own_address(uint32_t nic) const;
    // A probe for the NIC's own address; false if another NIC has it.
    bool announce_own(uint32_t nic, hs_frame &frame);

    // mediator_contacts.cc
    void begin_contacts(int64_t now_ns); // the guest runs again after the cut
    std::optional<ContactRecord> contacts(int64_t now_ns) const;
    const MemberTable &table() const { return table_; }

    const ChannelRecord &record() const { return record_; }
    hs_mediator_stats stats() const;

  private:
    /*
     *   off --prepare--> installed --start_coloring--> white --cut--> red --end_coloring--> ended
     *
     * and reset from each to off. The member table outlives the epoch, for late colored frames.
     */
    enum class State : uint8_t { off, installed, white, red, ended };

    // A frame, the part at hand, and its parsed view.
    struct Input {
        const hs_frame &frame;
        const Part &part;
        const FrameView &view;
        int64_t now_ns;
        // None when there is no memory for it.
        std::optional<std::vector<uint8_t>> copy(Mac source) const;
    };

    // How a frame from the guest leaves.
    struct Departure {
        std::optional<Waiting> waits;   // it cannot carry a color
        std::optional<uint32_t> source; // its index in the table: it gets a color
    };

    hs_verdict from_guest(const Input &in, Mac &source);
    // `source`: the index of its source in the table, as in Departure.
    Departure depart(const Input &in, std::optional<uint32_t> source) const;
    bool color(const Input &in, uint32_t index, Mac &source);
    // Makes a probe ready that brings frames to this source here, if they may go to another NIC.
    bool announce(const Input &in, uint32_t index);
    bool is_neighbor(uint32_t nic, Mac mac) const;
    bool is_alias(Mac mac) const;
    hs_verdict to_guest(const Input &in, Mac &source);
    bool take_probe(const Input &in);
    // Keeps the frame, or drops and counts it.
    void hold(HoldQueue &queue, const Input &in, Mac source, Waiting reason);
    bool put(HoldQueue &queue, HeldFrame frame, bool ready);
    void note_wait(const HeldFrame &frame, int64_t now_ns);
    // Counts a frame to the guest. Returns whether it is channel state if delivered after our cut.
    bool classify(const Input &in, const std::optional<MemberTable::Sighting> &from);
    bool classify_in_epoch(const Input &in, const std::optional<MemberTable::Sighting> &from);
    bool classify_natural(const Input &in);
    void count_received(const Input &in, uint32_t sender);
    bool is_red(const MemberTable::Sighting &from) const; // of this epoch
    bool forces_cut(const MemberTable::Sighting &from) const;
    uint32_t sender_of(const MemberTable::Sighting &from) const {
        return table_.sources()[from.source].nic;
    }
    Pair channel_from(uint32_t sender, Mac destination) const {
        return {table_.nics()[sender].mac, destination};
    }
    bool in_epoch() const {
        return state_ == State::installed || state_ == State::white || state_ == State::red;
    }
    bool colors() const { return state_ == State::white || state_ == State::red; }
    // None when there is no memory for it.
    static std::optional<std::vector<uint8_t>> duplicate(const std::vector<uint8_t> &data);
    void hear_neighbors();
    bool send_probe(uint32_t nic, Probe::Kind kind, uint32_t through = 0);
    bool queue_probe(uint32_t nic, Probe::Kind kind, Mac source, uint32_t through);
    void hear(uint32_t nic, uint32_t other, uint8_t bits) {
        hearing_.note(nics_[nic].in_table, other, bits);
    }
    void take_move(const Input &in, uint32_t other, Probe::Kind kind);
    void take_mark(const Input &in, uint32_t other, uint32_t through);
    void all_marked(const Marks::Link &link);
    bool keeps_order(uint32_t sender) const;
    void save(const HeldFrame &frame, bool from_guest, std::optional<std::vector<uint8_t>> data);
    void check_complete();
    void release_waiting();
    Mac former_source(Mac source) const;

    // mediator_senders.cc
    void note_sent(uint32_t nic, Mac source, int64_t now_ns);
    void note_moved(Mac source, int64_t now_ns);
    static const SourceTable::Entry *sent_for(const Nic &nic, Mac source);
    bool sends_now(uint32_t nic, Mac source) const;
    static std::vector<uint8_t> announcement(const Nic &nic, Mac source);
    void record_sender(uint32_t nic, Mac source);
    void record_senders();
    // (NIC, source): frames with the source wait at another NIC, which sent for it before.
    std::set<std::pair<uint32_t, Mac>> moved_while_frames_wait();

    // mediator_contacts.cc
    void note_contact(Mac destination, int64_t now_ns);

    // mediator_routers.cc
    bool is_our_own(uint32_t nic, Mac mac) const;
    void learn_address(const Input &in, Mac source) {
        if (!in.view.is_untagged_ipv4()) { // as most frames are
            learn_claimed_address(in, source);
        }
    }
    void learn_claimed_address(const Input &in, Mac source);
    std::vector<IpAddress> list_addresses(uint32_t nic, const std::vector<Mac> &sources) const;
    bool watches_routers() const { return in_epoch() && !closed_; }
    void watch_received(const Input &in);
    void watch_sent(const Input &in);

    std::vector<Nic> nics_;
    State state_ = State::off;
    uint64_t epoch_ = 0;
    uint32_t self_ = 0; // index of this member in the table
    bool coloring_ = true;
    MemberTable table_;
    // Tables of earlier epochs, the last first: a member left behind in one of them (it lost its
    // initiator, and does not know yet) still sends colored frames.
    std::deque<MemberTable> former_;
    ChannelCounts counts_;
    Hearing hearing_;
    int64_t now_ns_ = 0;     // time of the latest frame
    int64_t listed_ns_ = 0;  // when our sources were listed
    bool armed_ = false;     // a cut can be taken
    bool holding_ = false;   // a red frame came before our cut
    bool cut_told_ = false;  // and the caller was told to take it
    bool recording_ = false; // from our cut until the channels are closed
    bool closed_ = false;
    // Where marks are due that do not count yet.
    std::set<Marks::Link> unmarked_;
    Marks marks_; // those that have come
    // By source: this NIC is the last of those that send for the address to have announced it.
    std::vector<bool> announced_;
    uint64_t uncounted_ = 0; // frames that there was no memory to count
    Contacts contacts_;
    ChannelRecord record_;
    std::array<HoldQueue, 2> queues_; // by hs_direction
    std::vector<uint8_t> released_;
    hs_mediator_stats stats_{};
};

} // namespace hotsnap::network
#endif
