// The resuming watch: the events of a job up to its end, over as many calls as
// needed (docs/clients/index.md).

#ifndef JOBGATEWAY_WATCH_H_
#define JOBGATEWAY_WATCH_H_

#include <jobgateway/v1/job_service.pb.h>

#include <memory>
#include <string>

namespace jobgateway {

// A job that has ended.
struct Finished {
  v1::Job job;
  // JSON; empty if there is none, or if it was not requested.
  std::string result;
};

// The events of a job:
//
//   Watch watch = client.Watch(uid);
//   v1::JobEvent event;
//   while (watch.Next(&event)) { ... }
//
// To leave it, destroy it, or call Close() on another thread; the job
// continues. Next() returns at least with each heartbeat, except during the
// waits after a failure. Use each watch on one thread, except for Close(). It
// may outlive its client.
class Watch {
 public:
  Watch(Watch&&) noexcept;
  Watch& operator=(Watch&&) noexcept;
  ~Watch();

  // Waits for the next event. Returns false after the one whose job.done is
  // true. Every other end of the watch is an Error: a final status, or
  // DATA_LOSS if the result was damaged on the way.
  bool Next(v1::JobEvent* event);

  // Ends the watch, from any thread: Next() and Finish() throw an Error with
  // the code CANCELLED and the reason kClosed, also those that wait already.
  // Without effect after the end of the job.
  void Close();

  // Reads the remaining events, and returns the job and its result. Throws like
  // Next().
  Finished Finish();

  // Returns the chunks of the result so far, put together.
  const std::string& chunks() const;

 private:
  friend class Client;
  class Impl;

  explicit Watch(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

// Returns the result of a done job as JSON. `chunks`: those of its watch.
std::string ResultOf(const v1::Job& job, const std::string& chunks);

}  // namespace jobgateway

#endif  // JOBGATEWAY_WATCH_H_
