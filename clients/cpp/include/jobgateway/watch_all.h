// The resuming watch of many jobs: their events up to each end, on one stream
// after another (docs/clients/index.md).

#ifndef JOBGATEWAY_WATCH_ALL_H_
#define JOBGATEWAY_WATCH_ALL_H_

#include <jobgateway/v1/job_service.pb.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace jobgateway {

// The events of many jobs:
//
//   WatchAll watch = client.WatchAll(requests);
//   v1::JobEvent event;
//   while (watch.Next(&event)) { ... }
//
// An event with a `failure` is the last one of its job: the watch of that job
// failed permanently, with the error ErrorOf(event.failure()). The code is
// DATA_LOSS if the result was damaged on the way. The other watches continue.
// Events with the uid 0 are about the stream.
//
// To leave it, destroy it, or call Close() on another thread; the jobs
// continue. Next() returns at least with each heartbeat, except during the
// waits after a failure. Nothing is read between its calls. Use each watch on
// one thread, except for Close(). It may outlive its client.
class WatchAll {
 public:
  WatchAll(WatchAll&&) noexcept;
  WatchAll& operator=(WatchAll&&) noexcept;
  ~WatchAll();

  // Waits for the next event. Returns false after the end of every job. Throws
  // an Error if the stream failed permanently before it.
  bool Next(v1::JobEvent* event);

  // Ends the watch, from any thread: Next() throws an Error with the code
  // CANCELLED and the reason kClosed, also one that waits already. Without
  // effect after the end of every job.
  void Close();

  // Returns the number of jobs that have not ended and whose watch has not
  // failed.
  std::size_t pending() const;

  // Returns the chunks of the result of a job so far, put together. They are
  // complete with the last event of the job, and released by the next Next().
  const std::string& chunks(std::int64_t uid) const;

 private:
  friend class Client;
  class Impl;

  explicit WatchAll(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace jobgateway

#endif  // JOBGATEWAY_WATCH_ALL_H_
