#include "watch.h"

#include <optional>
#include <utility>

#include "event_stream.h"
#include "failure.h"

namespace jobclient {

using jobgateway::v1::JobEvent;
using jobgateway::v1::WatchJobRequest;
using std::chrono::nanoseconds;

class Watch::Call : public EventStream<grpc::ClientAsyncReader<JobEvent>> {
 public:
  Call(Connection* connection, const WatchJobRequest& request,
       nanoseconds limit) {
    connection->Authorize(context());
    AddJobUid(request.uid(), context());
    Start(connection->stub().PrepareAsyncWatchJob(context(), request, queue()),
          limit);
  }
};

Watch::Watch(Connection* connection, WatchJobRequest request,
             OnResume on_resume)
    : connection_(connection),
      request_(std::move(request)),
      on_resume_(std::move(on_resume)),
      silence_(Silence(request_)),
      result_(request_.content_format()) {}

Watch::~Watch() = default;

bool Watch::Next(JobEvent* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      rules_.Opened();
      call_ = std::make_unique<Call>(connection_, request_, silence_);
    }
    if (call_->Read(event, done_ ? kEndLimit : silence_)) return Take(*event);
    const grpc::Status status = call_->Finish();
    const Failure failure =
        call_->silent() ? SilentStream() : FailureOf(status);
    call_.reset();
    if (done_) {
      End(grpc::Status::OK);  // after the end, the status does not matter
    } else if (const auto next = rules_.Resume(failure)) {
      on_resume_(*next);
      connection_->Resume(*next);
    } else {
      End(status);
    }
  }
  return false;
}

// Returns whether the caller receives the event.
bool Watch::Take(const JobEvent& event) {
  const std::string& token = event.resume_token();
  rules_.Heard(ProvesToken(event),
               !token.empty() && token != request_.resume_token());
  if (!token.empty()) request_.set_resume_token(token);
  done_ = event.job().done();
  const bool intact = result_.Take(event);
  if (!intact) End(DamagedResult());
  return intact;
}

void Watch::End(const grpc::Status& status) {
  ended_ = true;
  status_ = status;
  call_.reset();
}

}  // namespace jobclient
