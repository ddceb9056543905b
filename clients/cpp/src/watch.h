// The resuming watch: the events of a job up to its end, over as many calls as
// needed (docs/clients/index.md).

#ifndef JOBCLIENT_WATCH_H_
#define JOBCLIENT_WATCH_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "connection.h"
#include "jobgateway/v1/job_service.pb.h"
#include "result.h"
#include "rules.h"

namespace jobclient {

// The events of a job:
//
//   Watch watch(&connection, request, on_resume);
//   while (watch.Next(&event)) { ... }
//   grpc::Status status = watch.status();
//
// To cancel it, stop calling Next() and destroy it; the job continues. Next()
// returns at least with each heartbeat, except during the waits after a
// failure. Not thread-safe.
class Watch {
 public:
  using OnResume = std::function<void(const Resumption&)>;

  // Makes no call yet. `on_resume` is called before the wait for each further
  // call.
  Watch(Connection* connection, jobgateway::v1::WatchJobRequest request,
        OnResume on_resume);
  ~Watch();

  // Waits for the next event. Returns false after the one whose job.done is
  // true, and if the watch ended before it.
  bool Next(jobgateway::v1::JobEvent* event);

  // Returns the chunks of the result so far, put together.
  const std::string& chunks() const { return result_.chunks(); }

  // Returns OK if the job has ended, DATA_LOSS if its result was damaged on the
  // way, otherwise the status that ended the watch. Call it after Next()
  // returned false.
  const grpc::Status& status() const { return status_; }

 private:
  class Call;

  bool Take(const jobgateway::v1::JobEvent& event);
  void End(const grpc::Status& status);

  Connection* const connection_;
  jobgateway::v1::WatchJobRequest request_;
  const OnResume on_resume_;
  const std::chrono::nanoseconds silence_;
  std::unique_ptr<Call> call_;
  StreamRules rules_;
  Result result_;
  bool done_ = false;
  bool ended_ = false;
  grpc::Status status_;
};

}  // namespace jobclient

#endif  // JOBCLIENT_WATCH_H_
