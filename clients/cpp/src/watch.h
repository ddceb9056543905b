// The resuming watch: one job's events up to its end, over as many calls as
// that takes (docs/clients/index.md).

#ifndef JOBCLIENT_WATCH_H_
#define JOBCLIENT_WATCH_H_

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "connection.h"
#include "failure.h"
#include "jobgateway/v1/job_service.pb.h"

namespace jobclient {

// The reason of a stream that was given up because nothing was heard from it.
inline constexpr char kSilent[] = "SILENT";

// Why a watch goes on in another call.
struct Resumption {
  Failure failure;
  bool new_connection;
};

// The events of a job:
//
//   Watch watch(&connection, request, on_resume);
//   while (watch.Next(&event)) { ... }
//   grpc::Status status = watch.status();
//
// To leave it, stop and destroy it; the job runs on. Next() returns at least
// with each heartbeat, but for the waits after a failure. For one thread.
class Watch {
 public:
  using OnResume = std::function<void(const Resumption&)>;

  // Calls nothing yet. `on_resume` is told of each failure after which the
  // watch goes on, before it waits.
  Watch(Connection* connection, jobgateway::v1::WatchJobRequest request,
        OnResume on_resume);
  ~Watch();

  // Waits for the next event. False after the one whose job.done is true, and
  // where the watch ended before it.
  bool Next(jobgateway::v1::JobEvent* event);

  // After Next() was false: OK where the job has ended, else the status that
  // ended the watch.
  const grpc::Status& status() const { return status_; }

 private:
  class Call;

  void Take(const jobgateway::v1::JobEvent& event);
  void End(const grpc::Status& status);
  bool Resume(const Failure& failure);
  bool IsBroken(grpc::StatusCode code);
  std::chrono::nanoseconds Wait(const Failure& failure);

  Connection* const connection_;
  jobgateway::v1::WatchJobRequest request_;
  const OnResume on_resume_;
  const std::chrono::nanoseconds silence_;
  std::unique_ptr<Call> call_;
  std::chrono::steady_clock::time_point began_;
  std::chrono::nanoseconds backoff_;
  std::mt19937 random_{std::random_device()()};
  bool heard_ = false;       // an event came on this call
  bool heard_ever_ = false;  // an event came
  // The resume token at the last status that a message over the receive limit
  // gives.
  std::optional<std::string> over_limit_at_;
  bool fresh_token_ = false;  // a login, and no proof yet that it helped
  bool done_ = false;
  bool ended_ = false;
  grpc::Status status_;
};

// Adds a chunk to the bytes of a result. After a resumption chunks may begin
// again at 0, so what is held is cut to the chunk's offset.
void TakeChunk(const jobgateway::v1::ContentChunk& chunk, std::string* held);

}  // namespace jobclient

#endif  // JOBCLIENT_WATCH_H_
