#include "watch_all.h"

#include <chrono>
#include <optional>
#include <utility>

#include "event_stream.h"

namespace jobclient {

using jobgateway::v1::JobEvent;
using jobgateway::v1::WatchJobRequest;
using jobgateway::v1::WatchJobsRequest;
using std::chrono::steady_clock;

// One stream. It writes while it waits for an event, one request at a time:
// many requests can fill the window of the connection while the gateway waits
// for this client to read.
class WatchAll::Call
    : public EventStream<
          grpc::ClientAsyncReaderWriter<WatchJobsRequest, JobEvent>> {
 public:
  Call(Connection* connection, ManyRules* rules) : rules_(rules) {
    connection->Authorize(context());
    Start(connection->stub().PrepareAsyncWatchJobs(context(), queue()),
          rules->limit());
  }

 private:
  steady_clock::time_point Write() override {
    if (writing_ || closed_) return steady_clock::time_point::max();
    if (const auto request = rules_->NextRequest()) {
      stream().Write(*request, tag());
    } else if (rules_->pending() == 0) {
      stream().WritesDone(tag());
      closed_ = true;
    } else {
      return rules_->next_due();
    }
    writing_ = true;
    return steady_clock::time_point::max();
  }

  void Written(bool ok) override {
    writing_ = false;
    // The stream has ended. Its status comes after the last event.
    if (!ok) closed_ = true;
  }

  ManyRules* const rules_;
  bool writing_ = false;
  bool closed_ = false;
};

WatchAll::WatchAll(Connection* connection,
                   const std::vector<WatchJobRequest>& requests,
                   OnResume on_resume, OnAgain on_again)
    : connection_(connection),
      rules_(requests),
      on_resume_(std::move(on_resume)),
      on_again_(std::move(on_again)) {}

WatchAll::~WatchAll() = default;

bool WatchAll::Next(JobEvent* event) {
  while (!ended_) {
    if (call_ == nullptr) {
      if (pending() == 0) {
        End(grpc::Status::OK);
        break;
      }
      rules_.Opened();
      call_ = std::make_unique<Call>(connection_, &rules_);
    }
    if (call_->Read(event, rules_.limit())) {
      if (Take(event)) return true;
      continue;
    }
    const grpc::Status status = call_->Finish();
    const Failure failure =
        call_->silent() ? SilentStream() : FailureOf(status);
    call_.reset();
    if (pending() == 0) {
      End(grpc::Status::OK);  // after the last end, the status does not matter
    } else if (const auto next = rules_.Resume(failure)) {
      Resume(*next);
    } else {
      End(status);
    }
  }
  return false;
}

// Returns whether the caller receives the event.
bool WatchAll::Take(JobEvent* event) {
  switch (rules_.Take(event)) {
    case ManyRules::Outcome::kShow:
      return true;
    case ManyRules::Outcome::kIgnore:
      return false;
    case ManyRules::Outcome::kAgain:
      on_again_(event->uid(), FailureOf(event->failure()));
      return false;
    case ManyRules::Outcome::kLogIn:
      // The events that are not read yet come again by the resume tokens.
      call_.reset();
      Resume(rules_.LogIn(FailureOf(event->failure())));
      return false;
  }
  return false;
}

void WatchAll::Resume(const Resumption& resumption) {
  on_resume_(resumption);
  connection_->Resume(resumption);
}

void WatchAll::End(const grpc::Status& status) {
  ended_ = true;
  status_ = status;
}

}  // namespace jobclient
