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

constexpr nanoseconds kFirstWait = std::chrono::milliseconds(200);
constexpr nanoseconds kLongestWait = std::chrono::seconds(5);
constexpr nanoseconds kDefaultHeartbeat = std::chrono::seconds(15);

nanoseconds Silence(const WatchJobRequest& request) {
  if (!request.has_heartbeat_interval()) return 3 * kDefaultHeartbeat;
  return 3 * nanoseconds(
                 TimeUtil::DurationToNanoseconds(request.heartbeat_interval()));
}

// Whether an event shows that the upstream accepts the token. A heartbeat also
// comes before the first read has ended, and between a refusal and the read
// that confirms it.
bool ProvesToken(const JobEvent& event) {
  const jobgateway::v1::Heartbeat& heartbeat = event.heartbeat();
  return event.has_job() || event.has_content_chunk() ||
         (heartbeat.has_observe_time() && heartbeat.last_failure().empty());
}

}  // namespace

// One call. It uses a completion queue, for a blocking Read() has no time-out.
class Watch::Call {
 public:
  Call(Connection* connection, const WatchJobRequest& request,
       nanoseconds silence)
      : silence_(silence) {
    connection->Authorize(&context_);
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

  // False where there is no event any more: see Finish().
  bool Read(JobEvent* event) {
    if (!alive_) return false;
    reader_->Read(event, nullptr);
    alive_ = Await();
    return alive_;
  }

  // How the call ended; to be called once, after Read() was false.
  grpc::Status Finish() {
    grpc::Status status;
    reader_->Finish(&status, nullptr);
    Await();
    finished_ = true;
    return status;
  }

  // Whether it was cancelled because nothing was heard from it.
  bool silent() const { return silent_; }

 private:
  // Waits for the one operation that is under way; whether it went well.
  bool Await() {
    void* tag;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, system_clock::now() + silence_) ==
        grpc::CompletionQueue::TIMEOUT) {
      silent_ = true;
      context_.TryCancel();
      queue_.Next(&tag, &ok);
      return false;  // what came meanwhile comes again after the resumption
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
      backoff_(kFirstWait) {}

Watch::~Watch() = default;

bool Watch::Next(JobEvent* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      began_ = steady_clock::now();
      heard_ = false;
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
      End(grpc::Status::OK);  // no status changes anything after the end
    } else if (silent) {
      Resume(
          {grpc::StatusCode::CANCELLED, "nothing was heard", kSilent, {}, {}});
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
  heard_ = heard_ever_ = true;
  if (ProvesToken(event)) fresh_token_ = false;
  if (!event.resume_token().empty()) {
    request_.set_resume_token(event.resume_token());
  }
  done_ = event.job().done();
}

// Waits and makes ready for the next call; false where that is no use.
bool Watch::Resume(const Failure& failure) {
  const bool silent = failure.reason == kSilent;
  const bool unauthenticated =
      failure.code == grpc::StatusCode::UNAUTHENTICATED;
  const bool passing = silent ||
                       failure.code == grpc::StatusCode::UNAVAILABLE ||
                       (failure.code == grpc::StatusCode::RESOURCE_EXHAUSTED &&
                        failure.retry_after) ||
                       (unauthenticated && !fresh_token_);
  const bool foreign = failure.reason.empty();
  if (!passing && !(foreign && IsBroken(failure.code))) return false;
  // A new channel also forgets the old one's own backoff, which grows up to two
  // minutes.
  const bool new_connection = silent || foreign || failure.reason == "DRAINING";
  on_resume_({failure, new_connection});
  std::this_thread::sleep_for(Wait(failure));
  if (unauthenticated) {
    connection_->LogIn();
    fresh_token_ = true;
  }
  if (new_connection) connection_->Renew();
  return true;
}

// Whether a status that is not the gateway's means a broken stream, and not a
// wrong address or a limit.
bool Watch::IsBroken(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:  // without the job's end: a proxy ended it
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::OUT_OF_RANGE: {
      // A message over this client's own receive limit ends like this, and
      // would do so again.
      const bool again = over_limit_at_ == request_.resume_token();
      over_limit_at_ = request_.resume_token();
      return heard_ever_ && !again;
    }
    default:
      return heard_ever_;
  }
}

nanoseconds Watch::Wait(const Failure& failure) {
  // One event does not make a stream that works: it may break each time after
  // the first.
  if (heard_ && steady_clock::now() - began_ > kLongestWait) {
    backoff_ = kFirstWait;
  }
  std::uniform_int_distribution<nanoseconds::rep> jitter(backoff_.count() / 2,
                                                         backoff_.count());
  const nanoseconds wait(jitter(random_));
  backoff_ = std::min(2 * backoff_, kLongestWait);
  return std::max(wait, failure.retry_after.value_or(wait));
}

void TakeChunk(const jobgateway::v1::ContentChunk& chunk, std::string* held) {
  held->resize(chunk.offset());
  held->append(chunk.data());
}

}  // namespace jobclient
