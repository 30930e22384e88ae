// SPDX-License-Identifier: GPL-2.0-or-later
// Local work as text, and events from text: for scripts and traces that people read and write.
#ifndef HOTSNAP_TEST_WORK_JSON_H
#define HOTSNAP_TEST_WORK_JSON_H

#include <optional>
#include <string>
#include <string_view>

#include "member/work.h"

namespace hotsnap::member {

const char *name_of(const LocalWork &work); // "PREPARE", ..

// A text also names parts of the run that only earlier work had: one WorkText per member.
class WorkText {
  public:
    explicit WorkText(std::string self) : self_(std::move(self)) {}

    // A JSON object; for AbortWork, the reason alone.
    std::string text_of(const LocalWork &work);

  private:
    std::string self_;
    std::string tag_;
    bool coloring_ = true;
    uint64_t epoch_ = 0;
};

// `name` is "PREPARED", "CUT", ..; an unknown name gives none. Text that is not well formed gives
// Failed.
std::optional<LocalEvent> event_of(std::string_view name, const char *json);

} // namespace hotsnap::member
#endif
