// The rules of the resuming watch of many jobs on one stream
// (docs/clients/index.md). No input or output.

#ifndef JOBGATEWAY_SRC_MANY_RULES_H_
#define JOBGATEWAY_SRC_MANY_RULES_H_

#include <jobgateway/error.h>
#include <jobgateway/options.h>
#include <jobgateway/v1/job_service.pb.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "result.h"
#include "rules.h"

namespace jobgateway::internal {

// The requests of one stream after another, and the decision about each event
// and failure. A job is pending until it has ended or its watch has failed.
class ManyRules {
 public:
  // The consequence of an event for the watch.
  enum class Outcome {
    kShow,    // an item for the caller
    kIgnore,  // of no interest
    kAgain,   // a failure; the job is watched again on the same stream
    kLogIn,   // a failure; a fresh token may help, on a new stream
  };

  // Each job is watched once, and the heartbeat_interval of the first request
  // applies.
  explicit ManyRules(const std::vector<v1::WatchJobRequest>& requests);

  std::size_t pending() const { return jobs_.size(); }

  // Returns how long the stream may be silent.
  std::chrono::nanoseconds silence() const { return silence_; }

  // Returns the chunks of the result of a job, put together; empty from the
  // event after its last one.
  const std::string& chunks(std::int64_t uid) const;

  // Notes that a stream begins.
  void Opened();

  // Returns a request that is to be sent now, if there is one.
  std::optional<v1::WatchJobsRequest> NextRequest();

  // Returns the time of the next request.
  std::chrono::steady_clock::time_point next_due() const;

  // Takes an event. If the result of its job is damaged, the event becomes a
  // failure of that job.
  Outcome Take(v1::JobEvent* event);

  // Returns the wait before a job is watched again after kAgain.
  std::chrono::nanoseconds WaitOf(std::int64_t uid) const;

  // Returns how to continue on a stream with a fresh token after kLogIn.
  Retry LogIn(const Error& error);

  // Ends the watch of a job after kLogIn, because there is no other token.
  void WithoutLogin(std::int64_t uid);

  // Returns whether a fresh token may help after the error of the stream.
  bool WantsToken(const Error& error) const {
    return stream_.WantsToken(error);
  }

  // Returns how to continue after the error of the stream, or nothing if it is
  // final. `renewed`: a fresh token was wanted, and there is one.
  std::optional<Retry> Resume(const Error& error, bool renewed);

 private:
  using Time = std::chrono::steady_clock::time_point;

  // The watch of one job.
  struct Job {
    v1::WatchJobRequest request;  // the next one
    Result result;
    Time due{};         // the earliest time for the request
    bool sent = false;  // on the current stream
    Time sent_at{};
    Backoff backoff{};
    // The token is fresh, and no event proves that it may read this job.
    bool token_unproven = false;
  };
  using Jobs = std::map<std::int64_t, Job>;

  void Note(const v1::JobEvent& event);
  Outcome Fail(Jobs::iterator job, const Error& error);
  void End(Jobs::iterator job);
  void Renewed();
  Retry Prepare(Retry next) const;

  Jobs jobs_;
  std::chrono::nanoseconds silence_;
  StreamRules stream_;
  // The jobs whose requests are not sent on the current stream.
  using Due = std::pair<Time, std::int64_t>;
  std::priority_queue<Due, std::vector<Due>, std::greater<Due>> unsent_;
  std::int64_t sent_ = 0;  // requests on the current stream
  // A login returned no token during the current stream.
  bool no_token_ = false;
  // The result of the job that ended with the last event.
  std::optional<std::pair<std::int64_t, Result>> ended_;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_MANY_RULES_H_
