// The state of the resuming watch of many jobs.

#ifndef JOBGATEWAY_SRC_WATCH_ALL_IMPL_H_
#define JOBGATEWAY_SRC_WATCH_ALL_IMPL_H_

#include <jobgateway/watch_all.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attempts.h"
#include "event_stream.h"
#include "many_rules.h"

namespace jobgateway {

class WatchAll::Impl {
 public:
  // Makes no call yet.
  Impl(internal::Attempts attempts,
       const std::vector<v1::WatchJobRequest>& requests);
  ~Impl();

  bool Next(v1::JobEvent* event);
  void Close() { attempts_.Close(); }
  std::size_t pending() const { return rules_.pending(); }
  const std::string& chunks(std::int64_t uid) const {
    return rules_.chunks(uid);
  }

 private:
  class Stream;

  bool Advance(v1::JobEvent* event);

  // Returns whether the caller receives the event.
  bool Take(const v1::JobEvent& event, internal::ManyRules::Outcome outcome);

  // Prepares a stream with a fresh token after the error of a job. Returns
  // false if there is none.
  bool LogIn(const Error& error);

  internal::Attempts attempts_;
  internal::ManyRules rules_;
  std::unique_ptr<Stream> stream_;
  // After the end of every job: when the stream has to end.
  std::optional<std::chrono::steady_clock::time_point> done_;
  bool ended_ = false;
};

}  // namespace jobgateway

#endif  // JOBGATEWAY_SRC_WATCH_ALL_IMPL_H_
