// One call with a stream of events.

#ifndef JOBCLIENT_EVENT_STREAM_H_
#define JOBCLIENT_EVENT_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "jobgateway/v1/job_service.pb.h"
#include "rules.h"

namespace jobclient {

// Reads the events of one call on the caller's thread, with a time limit. It
// uses a completion queue because a blocking Read() has no timeout. `Stream` is
// a grpc::ClientAsyncReader or a grpc::ClientAsyncReaderWriter.
template <typename Stream>
class EventStream {
 public:
  EventStream() = default;
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  virtual ~EventStream() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  // Returns false if there are no more events, or if none arrived in time. Call
  // Finish() then.
  bool Read(jobgateway::v1::JobEvent* event, std::chrono::nanoseconds limit) {
    if (!alive_) return false;
    stream_->Read(event, nullptr);
    alive_ = Await(limit);
    return alive_;
  }

  // Returns the status of the call. Call it once, after Read() returned false.
  grpc::Status Finish() {
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Await(kEndLimit);
    finished_ = true;
    return status;
  }

  // Returns whether the call was cancelled because no event arrived in time.
  bool silent() const { return silent_; }

 protected:
  grpc::ClientContext* context() { return &context_; }
  grpc::CompletionQueue* queue() { return &queue_; }
  Stream& stream() { return *stream_; }

  // The tag of an operation of the derived class; the others have none.
  void* tag() { return this; }

  // Starts the call that was prepared with context() and queue().
  void Start(std::unique_ptr<Stream> stream, std::chrono::nanoseconds limit) {
    stream_ = std::move(stream);
    stream_->StartCall(nullptr);
    alive_ = Await(limit);
  }

  // Starts an operation with tag() if it is time for one, while a read waits.
  // Returns when to call it again at the latest.
  virtual std::chrono::steady_clock::time_point Write() {
    return std::chrono::steady_clock::time_point::max();
  }

  // Takes the result of that operation.
  virtual void Written(bool /*ok*/) {}

 private:
  // Waits for the operation without a tag. Returns whether it succeeded in
  // time.
  bool Await(std::chrono::nanoseconds limit) {
    using std::chrono::steady_clock;
    using std::chrono::system_clock;
    const steady_clock::time_point end = steady_clock::now() + limit;
    while (true) {
      const steady_clock::time_point wake =
          alive_ ? std::min(end, Write()) : end;
      void* tag = nullptr;
      bool ok = false;
      if (queue_.AsyncNext(
              &tag, &ok, system_clock::now() + (wake - steady_clock::now())) ==
          grpc::CompletionQueue::TIMEOUT) {
        if (steady_clock::now() < end) continue;
        silent_ = true;
        context_.TryCancel();
        do {
          queue_.Next(&tag, &ok);
        } while (tag != nullptr);
        return false;  // an event that arrives now comes again after the resume
      }
      if (tag == nullptr) return ok;
      Written(ok);
    }
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<Stream> stream_;
  bool alive_ = false;
  bool silent_ = false;
  bool finished_ = false;
};

}  // namespace jobclient

#endif  // JOBCLIENT_EVENT_STREAM_H_
