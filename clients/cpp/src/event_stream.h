// One call with a stream of events.

#ifndef JOBGATEWAY_SRC_EVENT_STREAM_H_
#define JOBGATEWAY_SRC_EVENT_STREAM_H_

#include <grpcpp/grpcpp.h>
#include <jobgateway/v1/job_service.pb.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "attempts.h"
#include "connection.h"
#include "errors.h"
#include "rules.h"

namespace jobgateway::internal {

// Reads the events of one call on the caller's thread, with a time limit. It
// uses a completion queue because a blocking Read() has no timeout. `Stream` is
// a grpc::ClientAsyncReader or a grpc::ClientAsyncReaderWriter.
template <typename Stream>
class EventStream {
 public:
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  virtual ~EventStream() {
    if (stream_ != nullptr && !finished_) {
      call_.context()->TryCancel();
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
  bool Read(v1::JobEvent* event, std::chrono::nanoseconds limit) {
    if (!alive_) return false;
    stream_->Read(event, nullptr);
    alive_ = Await(limit);
    return alive_;
  }

  // Returns how the call ended. Call it once, after Read() returned false.
  EndedCall Finish() {
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Await(kEndLimit);
    finished_ = true;
    return {silent_ ? SilentStream() : ErrorOf(status), call_.stub(),
            call_.token(), status.ok() && call_.replayed()};
  }

  const Call& call() const { return call_; }

 protected:
  EventStream(Attempts* attempts, std::int64_t uid)
      : call_(attempts->connection(), attempts->handle(), attempts->Token(),
              uid) {}

  grpc::ClientContext* context() { return call_.context(); }
  Connection::Stub& stub() { return *call_.stub(); }
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
        call_.context()->TryCancel();
        do {
          queue_.Next(&tag, &ok);
        } while (tag != nullptr);
        return false;  // an event that arrives now comes again after the resume
      }
      if (tag == nullptr) return ok;
      Written(ok);
    }
  }

  Call call_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<Stream> stream_;
  bool alive_ = false;
  bool silent_ = false;
  bool finished_ = false;
};

}  // namespace jobgateway::internal

#endif  // JOBGATEWAY_SRC_EVENT_STREAM_H_
