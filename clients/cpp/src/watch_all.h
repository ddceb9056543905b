// The resuming watch of many jobs: their events up to each end, on one stream
// after another (docs/clients/index.md).

#ifndef JOBCLIENT_WATCH_ALL_H_
#define JOBCLIENT_WATCH_ALL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"
#include "many_rules.h"
#include "rules.h"

namespace jobclient {

// The events of many jobs:
//
//   WatchAll watch(&connection, requests, on_resume, on_again);
//   while (watch.Next(&event)) { ... }
//   grpc::Status status = watch.status();
//
// An event with a `failure` is the last one of its job: the watch of that job
// failed for good, with the error FailureOf(event.failure()). The code is
// DATA_LOSS if the result was damaged on the way. The other watches continue.
// Events with the uid 0 are about the stream.
//
// To cancel it, stop calling Next() and destroy it; the jobs continue. Next()
// returns at least with each heartbeat, except during the waits after a
// failure. Nothing is read between its calls. Not thread-safe.
class WatchAll {
 public:
  using OnResume = std::function<void(const Resumption&)>;
  using OnAgain = std::function<void(std::int64_t uid, const Failure&)>;

  // Makes no call yet. `on_resume` is called before the wait for each further
  // stream, and `on_again` before the wait for each further watch of a job on
  // the same stream.
  WatchAll(Connection* connection,
           const std::vector<jobgateway::v1::WatchJobRequest>& requests,
           OnResume on_resume, OnAgain on_again);
  ~WatchAll();

  // Waits for the next event. Returns false after the end of every job, and if
  // the stream failed for good before it.
  bool Next(jobgateway::v1::JobEvent* event);

  // Returns the number of jobs that have not ended and whose watch has not
  // failed.
  std::size_t pending() const { return rules_.pending(); }

  // Returns the chunks of the result of a job so far, put together. They are
  // complete with the last event of the job, and released by the next Next().
  const std::string& chunks(std::int64_t uid) const {
    return rules_.chunks(uid);
  }

  // Returns OK if no job is pending, otherwise the status that ended the
  // stream for good. Call it after Next() returned false.
  const grpc::Status& status() const { return status_; }

 private:
  class Call;

  bool Take(jobgateway::v1::JobEvent* event);
  void Resume(const Resumption& resumption);
  void End(const grpc::Status& status);

  Connection* const connection_;
  ManyRules rules_;
  const OnResume on_resume_;
  const OnAgain on_again_;
  std::unique_ptr<Call> call_;
  bool ended_ = false;
  grpc::Status status_;
};

}  // namespace jobclient

#endif  // JOBCLIENT_WATCH_ALL_H_
