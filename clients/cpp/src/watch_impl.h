// The state of the resuming watch of one job.

#ifndef JOBGATEWAY_SRC_WATCH_IMPL_H_
#define JOBGATEWAY_SRC_WATCH_IMPL_H_

#include <jobgateway/watch.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "attempts.h"
#include "event_stream.h"
#include "result.h"
#include "rules.h"

namespace jobgateway {

class Watch::Impl {
 public:
  // Makes no call yet. `run`: the request that sends the job, if the watch
  // begins with it.
  Impl(internal::Attempts attempts, std::optional<v1::RunJobRequest> run,
       v1::WatchJobRequest request);
  ~Impl();

  bool Next(v1::JobEvent* event);
  void Close() { attempts_.Close(); }
  const v1::Job& job() const { return job_; }
  const std::string& chunks() const { return result_.chunks(); }

 private:
  class Stream;

  bool Advance(v1::JobEvent* event);
  void Take(const v1::JobEvent& event);

  // Returns how to continue after the error of a stream, or nothing if it is
  // final. `renewed`: a fresh token was wanted, and there is one.
  std::optional<Retry> Decide(const Error& error, bool renewed);

  internal::Attempts attempts_;
  const std::optional<v1::RunJobRequest> run_;
  v1::WatchJobRequest request_;  // the next one
  const std::chrono::nanoseconds silence_;
  internal::StreamRules rules_;
  internal::Result result_;
  std::unique_ptr<Stream> stream_;
  v1::Job job_;  // the last state
  // After the end of the job: when the stream has to end.
  std::optional<std::chrono::steady_clock::time_point> done_;
  bool ended_ = false;
};

}  // namespace jobgateway

#endif  // JOBGATEWAY_SRC_WATCH_IMPL_H_
