// SPDX-License-Identifier: GPL-2.0-or-later
// What a peer makes of its own local work: answers of the machine it runs in.
#include <algorithm>

#include "network/channel_json.h"
#include "peer.h"

namespace hotsnap::cluster {

namespace {

constexpr uint64_t progress_interval_us = 200'000;

} // namespace

const char *to_string(Peer::State state) {
    switch (state) {
    case Peer::State::idle:
        return "idle";
    case Peer::State::preparing:
        return "preparing";
    case Peer::State::prepared:
        return "prepared";
    case Peer::State::installing:
        return "installing";
    case Peer::State::installed:
        return "installed";
    case Peer::State::arming:
        return "arming";
    case Peer::State::armed:
        return "armed";
    case Peer::State::cutting:
        return "cutting";
    case Peer::State::cut:
        return "cut";
    case Peer::State::draining:
        return "draining";
    case Peer::State::closing:
        return "closing";
    case Peer::State::drained:
        return "drained";
    case Peer::State::copying:
        return "copying";
    case Peer::State::promised:
        return "promised";
    case Peer::State::loading:
        return "loading";
    case Peer::State::loaded:
        return "loaded";
    case Peer::State::starting:
        return "starting";
    case Peer::State::started:
        return "started";
    case Peer::State::aborting:
        return "aborting";
    }
    return "?";
}

bool Peer::legal_local(std::initializer_list<State> states) {
    const bool good = in(states);
    ignored_ += !good;
    return good;
}

void Peer::on_local(hs_local_kind kind, const Json &json, uint64_t now_us) {
    now_us_ = now_us;
    try {
        switch (kind) {
        case HS_LOCAL_PREPARED:
            local_prepared(json);
            return;
        case HS_LOCAL_INSTALLED:
            if (legal_local({State::installing})) {
                state_ = State::installed;
                reply(Installed{run_});
            }
            return;
        case HS_LOCAL_ARMED:
            if (legal_local({State::arming})) {
                state_ = State::armed;
                reply(Armed{run_});
            }
            return;
        case HS_LOCAL_CUT:
            local_cut(json);
            return;
        case HS_LOCAL_CHANNELS_FIN:
            if (legal_local({State::draining, State::closing})) {
                drain_deadline_ = never;
                state_ = State::drained;
                reply(ChannelsFin{run_, get_uint(json, "recorded", 0), get_uint(json, "lost", 0)});
            }
            return;
        case HS_LOCAL_FULL_FIN:
            if (legal_local({State::cut, State::draining, State::closing, State::drained,
                             State::copying})) {
                report_ = json;
                promise();
            }
            return;
        case HS_LOCAL_PROGRESS:
            local_progress(json);
            return;
        case HS_LOCAL_ABORTED:
            local_aborted(json);
            return;
        case HS_LOCAL_LOADED:
            if (legal_local({State::loading})) {
                state_ = State::loaded;
                reply(Loaded{run_, json});
            }
            return;
        case HS_LOCAL_STARTED:
            if (legal_local({State::starting})) {
                state_ = State::started;
                reply(Started{run_, json});
                if (!link_alive_) {
                    keep("in-doubt", true, reason_);
                }
            }
            return;
        case HS_LOCAL_FAILED:
            fail(get_string(json, "error", "the local step failed without a reason"));
            return;
        case HS_LOCAL_PUBLISHED: // the initiator's
            break;
        }
        ignored_++;
    } catch (const BadInput &e) {
        fail(std::string("bad answer of the local side: ") + e.what());
    }
}

void Peer::local_prepared(const Json &json) {
    if (!legal_local({State::preparing})) {
        return;
    }
    Prepared prepared{run_, last_epoch_, {}, Json::array(), Json::object()};
    for (const Json &nic : get_array(json, "nics")) {
        const auto mac = nic.is_object() ? nic.find("mac") : nic.end();
        if (mac == nic.end()) {
            throw BadInput("a NIC without 'mac'");
        }
        prepared.macs.push_back(mac_from_json(*mac));
        prepared.nics.push_back(nic);
    }
    prepared.info = get_object(json, "info", Json::object());
    state_ = State::prepared;
    reply(std::move(prepared));
}

void Peer::local_cut(const Json &json) {
    if (!legal_local({State::armed, State::cutting})) {
        return;
    }
    TransientSnapFin fin{run_, counts_from_json(get_object(json, "white_sent", Json::object())),
                         get_object(json, "pause", Json::object()),
                         get_string(json, "cause", "snapshot")};
    if (state_ == State::armed) {
        say_phase("snapshot");
    }
    state_ = State::cut;
    reply(std::move(fin));
    say_phase("transient-fin");
}

void Peer::promise() {
    if (state_ == State::copying && report_) {
        state_ = State::promised;
        reply(FullSnapFin{run_, std::move(*report_)});
    }
}

void Peer::local_progress(const Json &json) {
    if (!busy()) {
        ignored_++;
        return;
    }
    done_ = get_uint(json, "done", 0);
    total_ = get_uint(json, "total", 0);
    if (now_us_ - progress_sent_us_ >= progress_interval_us) {
        send_progress();
    }
}

void Peer::local_aborted(const Json &json) {
    if (!legal_local({State::aborting})) {
        return;
    }
    reply(Aborted{run_, get_string(json, "error", "")}); // what could not be undone
    finish("aborted");
}

void Peer::fail(const std::string &reason) {
    if (!busy()) {
        ignored_++;
        return;
    }
    if (state_ == State::aborting) {
        return; // of a step that the abort found under way; HS_LOCAL_ABORTED is still due
    }
    if (state_ == State::preparing) {
        reply(Refused{run_, reason});
    } else {
        reply(Abort{run_, reason});
    }
    if (state_ != State::promised) {
        begin_abort(reason);
    }
}

void Peer::begin_abort(const std::string &reason) {
    state_ = State::aborting;
    reason_ = reason;
    drain_deadline_ = never;
    say_phase("aborting");
    out_.act(HS_DO_ABORT, reason);
}

} // namespace hotsnap::cluster
