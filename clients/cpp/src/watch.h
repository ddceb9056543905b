// The resuming watch: the events of a job up to its end, over as many calls as
// needed (docs/clients/index.md).

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

// The reason for a stream that was cancelled because no event arrived in time.
inline constexpr char kSilent[] = "SILENT";

// The reason why a watch resumes with another call.
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

  // Returns OK if the job has ended, otherwise the status that ended the watch.
  // Call it after Next() returned false.
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
  std::chrono::steady_clock::time_point started_;
  std::chrono::nanoseconds backoff_;
  std::mt19937 random_{std::random_device()()};
  bool received_ = false;      // an event has arrived on this call
  bool received_any_ = false;  // an event has arrived on any call
  // The resume token at the last status that a message over the receive limit
  // causes.
  std::optional<std::string> over_limit_at_;
  // No event since the last login proves that the upstream accepts the token.
  bool token_unproven_ = false;
  bool done_ = false;
  bool ended_ = false;
  grpc::Status status_;
};

// Adds a chunk to the bytes of a result. It first cuts them to the chunk's
// offset, because chunks may start again at 0 after a resume.
void TakeChunk(const jobgateway::v1::ContentChunk& chunk, std::string* held);

}  // namespace jobclient

#endif  // JOBCLIENT_WATCH_H_
