#include "watch.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "google/protobuf/util/time_util.h"

namespace jobclient {

using google::protobuf::util::TimeUtil;
using jobgateway::v1::JobEvent;
using jobgateway::v1::WatchJobRequest;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

namespace {

constexpr nanoseconds kInitialBackoff = std::chrono::milliseconds(200);
constexpr nanoseconds kMaxBackoff = std::chrono::seconds(5);
constexpr nanoseconds kDefaultHeartbeat = std::chrono::seconds(15);

nanoseconds Silence(const WatchJobRequest& request) {
  if (!request.has_heartbeat_interval()) return 3 * kDefaultHeartbeat;
  return 3 * nanoseconds(
                 TimeUtil::DurationToNanoseconds(request.heartbeat_interval()));
}

// Returns whether an event proves that the upstream accepts the token. Some
// heartbeats do not: those before the first read has ended, and those between
// a refusal and the read that confirms it.
bool ProvesToken(const JobEvent& event) {
  const jobgateway::v1::Heartbeat& heartbeat = event.heartbeat();
  return event.has_job() || event.has_content_chunk() ||
         (heartbeat.has_observe_time() && heartbeat.last_failure().empty());
}

}  // namespace

// One call. It uses a completion queue because a blocking Read() has no
// timeout.
class Watch::Call {
 public:
  Call(Connection* connection, const WatchJobRequest& request,
       nanoseconds silence)
      : silence_(silence) {
    connection->Authorize(&context_);
    AddJobUid(request.uid(), &context_);
    reader_ =
        connection->stub().PrepareAsyncWatchJob(&context_, request, &queue_);
    reader_->StartCall(nullptr);
    alive_ = Await();
  }

  ~Call() {
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

  // Returns false if there are no more events. Call Finish() then.
  bool Read(JobEvent* event) {
    if (!alive_) return false;
    reader_->Read(event, nullptr);
    alive_ = Await();
    return alive_;
  }

  // Returns the status of the call. Call it once, after Read() returned false.
  grpc::Status Finish() {
    grpc::Status status;
    reader_->Finish(&status, nullptr);
    Await();
    finished_ = true;
    return status;
  }

  // Returns whether the call was cancelled because no event arrived in time.
  bool silent() const { return silent_; }

 private:
  // Waits for the operation in flight. Returns whether it succeeded.
  bool Await() {
    void* tag;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, system_clock::now() + silence_) ==
        grpc::CompletionQueue::TIMEOUT) {
      silent_ = true;
      context_.TryCancel();
      queue_.Next(&tag, &ok);
      return false;  // an event that arrives now is repeated after the resume
    }
    return ok;
  }

  const nanoseconds silence_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<JobEvent>> reader_;
  bool alive_ = false;
  bool silent_ = false;
  bool finished_ = false;
};

Watch::Watch(Connection* connection, WatchJobRequest request,
             OnResume on_resume)
    : connection_(connection),
      request_(std::move(request)),
      on_resume_(std::move(on_resume)),
      silence_(Silence(request_)),
      backoff_(kInitialBackoff) {}

Watch::~Watch() = default;

bool Watch::Next(JobEvent* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      started_ = steady_clock::now();
      received_ = false;
      call_ = std::make_unique<Call>(connection_, request_, silence_);
    }
    if (call_->Read(event)) {
      Take(*event);
      return true;
    }
    const grpc::Status status = call_->Finish();
    const bool silent = call_->silent();
    call_.reset();
    if (done_) {
      End(grpc::Status::OK);  // after the end, the status does not matter
    } else if (silent) {
      Resume({grpc::StatusCode::CANCELLED,
              "no event arrived in time",
              kSilent,
              {},
              {}});
    } else if (!Resume(FailureOf(status))) {
      End(status);
    }
  }
  return false;
}

void Watch::End(const grpc::Status& status) {
  ended_ = true;
  status_ = status;
}

void Watch::Take(const JobEvent& event) {
  received_ = received_any_ = true;
  if (ProvesToken(event)) token_unproven_ = false;
  if (!event.resume_token().empty()) {
    request_.set_resume_token(event.resume_token());
  }
  done_ = event.job().done();
}

// Waits and prepares the next call. Returns false if the failure is final.
bool Watch::Resume(const Failure& failure) {
  const bool silent = failure.reason == kSilent;
  const bool unauthenticated =
      failure.code == grpc::StatusCode::UNAUTHENTICATED;
  const bool transient =
      silent || failure.code == grpc::StatusCode::UNAVAILABLE ||
      (failure.code == grpc::StatusCode::RESOURCE_EXHAUSTED &&
       failure.retry_after) ||
      (unauthenticated && !token_unproven_);
  const bool foreign = failure.reason.empty();
  if (!transient && !(foreign && IsBroken(failure.code))) return false;
  // A new connection is made immediately. The old one would wait up to two
  // minutes before it reconnects.
  const bool new_connection = silent || foreign || failure.reason == "DRAINING";
  on_resume_({failure, new_connection});
  std::this_thread::sleep_for(Wait(failure));
  if (unauthenticated) {
    connection_->LogIn();
    token_unproven_ = true;
  }
  if (new_connection) connection_->Reconnect();
  return true;
}

// Returns whether a status without the gateway's ErrorInfo means a broken
// stream, rather than a wrong address or a size limit.
bool Watch::IsBroken(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:  // before the job was done: from a proxy
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::OUT_OF_RANGE: {
      // A message over this client's own receive limit causes this status, and
      // would cause it again.
      const bool again = over_limit_at_ == request_.resume_token();
      over_limit_at_ = request_.resume_token();
      return received_any_ && !again;
    }
    default:
      return received_any_;
  }
}

nanoseconds Watch::Wait(const Failure& failure) {
  // One event does not prove that the stream works: it may break after its
  // first event each time.
  if (received_ && steady_clock::now() - started_ > kMaxBackoff) {
    backoff_ = kInitialBackoff;
  }
  std::uniform_int_distribution<nanoseconds::rep> jitter(backoff_.count() / 2,
                                                         backoff_.count());
  const nanoseconds wait(jitter(random_));
  backoff_ = std::min(2 * backoff_, kMaxBackoff);
  return std::max(wait, failure.retry_after.value_or(wait));
}

void TakeChunk(const jobgateway::v1::ContentChunk& chunk, std::string* held) {
  held->resize(chunk.offset());
  held->append(chunk.data());
}

}  // namespace jobclient
