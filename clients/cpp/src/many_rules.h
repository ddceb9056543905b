// The rules of the resuming watch of many jobs on one stream
// (docs/clients/index.md). No input or output.

#ifndef JOBCLIENT_MANY_RULES_H_
#define JOBCLIENT_MANY_RULES_H_

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

#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"
#include "result.h"
#include "rules.h"

namespace jobclient {

// The requests of one stream after another, and the decision about each event
// and failure. A job is pending until it has ended or its watch has failed.
class ManyRules {
 public:
  // What an event means for the watch.
  enum class Outcome {
    kShow,    // an item for the caller
    kIgnore,  // of no interest
    kAgain,   // a failure; the job is watched again on the same stream
    kLogIn,   // a failure; all jobs need a stream with a fresh token
  };

  // Each job is watched once, and the heartbeat_interval of the first request
  // applies.
  explicit ManyRules(
      const std::vector<jobgateway::v1::WatchJobRequest>& requests);

  std::size_t pending() const { return jobs_.size(); }

  // Returns how long the stream may be silent from now on.
  std::chrono::nanoseconds limit() const {
    return pending() == 0 ? kEndLimit : silence_;
  }

  // Returns the chunks of the result of a job, put together; empty from the
  // event after its last one.
  const std::string& chunks(std::int64_t uid) const;

  // Notes that a stream begins.
  void Opened();

  // Returns a request that is to be sent now, if there is one.
  std::optional<jobgateway::v1::WatchJobsRequest> NextRequest();

  // Returns the time of the next request.
  std::chrono::steady_clock::time_point next_due() const;

  // Takes an event. If the result of its job is damaged, the event becomes a
  // failure of that job.
  Outcome Take(jobgateway::v1::JobEvent* event);

  // Returns how to continue with a fresh token after the failure of a job.
  Resumption LogIn(const Failure& failure);

  // Returns how to continue after the failure of the stream, or nothing if it
  // is final.
  std::optional<Resumption> Resume(const Failure& failure);

 private:
  using Time = std::chrono::steady_clock::time_point;

  // The watch of one job.
  struct Job {
    jobgateway::v1::WatchJobRequest request;  // the next one
    Result result;
    Time due{};         // the earliest time for the request
    bool sent = false;  // on the current stream
    Time sent_at{};
    Backoff backoff{};
    // The token is fresh, and no event proves that it may read this job.
    bool token_unproven = false;
  };
  using Jobs = std::map<std::int64_t, Job>;

  void Note(const jobgateway::v1::JobEvent& event);
  Outcome Fail(Jobs::iterator job, const Failure& failure);
  void End(Jobs::iterator job);
  Resumption Prepare(Resumption next);

  Jobs jobs_;
  std::chrono::nanoseconds silence_;
  StreamRules stream_;
  // The jobs whose requests are not sent on the current stream.
  using Due = std::pair<Time, std::int64_t>;
  std::priority_queue<Due, std::vector<Due>, std::greater<Due>> unsent_;
  std::int64_t sent_ = 0;  // requests on the current stream
  // The result of the job that ended with the last event.
  std::optional<std::pair<std::int64_t, Result>> ended_;
};

}  // namespace jobclient

#endif  // JOBCLIENT_MANY_RULES_H_
