#include <jobgateway/watch_all.h>

#include <chrono>
#include <utility>

#include "watch_all_impl.h"

namespace jobgateway {

using internal::ManyRules;
using std::chrono::steady_clock;
using v1::JobEvent;
using v1::WatchJobRequest;
using v1::WatchJobsRequest;

// One stream. It writes while it waits for an event, one request at a time:
// many requests can fill the window of the connection while the gateway waits
// for this client to read.
class WatchAll::Impl::Stream
    : public internal::EventStream<
          grpc::ClientAsyncReaderWriter<WatchJobsRequest, JobEvent>> {
 public:
  Stream(internal::Attempts* attempts, ManyRules* rules)
      : EventStream(attempts, 0), rules_(rules) {
    Start(stub().PrepareAsyncWatchJobs(context(), queue()),
          attempts->Cap(rules->silence()));
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

WatchAll::Impl::Impl(internal::Attempts attempts,
                     const std::vector<WatchJobRequest>& requests)
    : attempts_(std::move(attempts)), rules_(requests) {}

WatchAll::Impl::~Impl() = default;

bool WatchAll::Impl::Next(JobEvent* event) {
  return attempts_.Guard(&stream_, [&] { return Advance(event); });
}

bool WatchAll::Impl::Advance(JobEvent* event) {
  while (!ended_) {
    if (stream_ == nullptr) {
      if (pending() == 0) {
        ended_ = true;
        break;
      }
      attempts_.Check();
      rules_.Opened();
      stream_ = std::make_unique<Stream>(&attempts_, &rules_);
    }
    if (pending() == 0 && !done_) {
      done_ = steady_clock::now() + internal::kEndLimit;
    }
    if (stream_->Read(event, done_ ? *done_ - steady_clock::now()
                                   : attempts_.Cap(rules_.silence()))) {
      if (done_) continue;  // nothing follows the end of every job
      const ManyRules::Outcome outcome = rules_.Take(event);
      if (Take(*event, outcome)) return true;
      continue;
    }
    const internal::EndedCall last = stream_->Finish();
    stream_.reset();
    if (pending() == 0) {
      ended_ = true;  // after the last end, the status does not matter
    } else {
      attempts_.Resume(last, rules_.WantsToken(last.error), [&](bool renewed) {
        return rules_.Resume(last.error, renewed);
      });
    }
  }
  return false;
}

bool WatchAll::Impl::Take(const JobEvent& event, ManyRules::Outcome outcome) {
  switch (outcome) {
    case ManyRules::Outcome::kShow:
      return true;
    case ManyRules::Outcome::kIgnore:
      return false;
    case ManyRules::Outcome::kAgain:
      attempts_.Failed(ErrorOf(event.failure()));
      if (attempts_.options().on_retry) {
        attempts_.options().on_retry({ErrorOf(event.failure()),
                                      rules_.WaitOf(event.uid()), false,
                                      event.uid(), pending()});
      }
      return false;
    case ManyRules::Outcome::kLogIn:
      if (LogIn(ErrorOf(event.failure()))) return false;
      rules_.WithoutLogin(event.uid());
      return true;
  }
  return false;
}

bool WatchAll::Impl::LogIn(const Error& error) {
  const auto used = stream_->call().stub();
  attempts_.Failed(error);
  if (!attempts_.Renew(stream_->call().token())) return false;
  // The events that are not read yet come again by the resume tokens.
  stream_.reset();
  attempts_.Prepare(rules_.LogIn(error), used);
  return true;
}

WatchAll::WatchAll(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WatchAll::WatchAll(WatchAll&&) noexcept = default;
WatchAll& WatchAll::operator=(WatchAll&&) noexcept = default;
WatchAll::~WatchAll() = default;

bool WatchAll::Next(JobEvent* event) { return impl_->Next(event); }

void WatchAll::Close() { impl_->Close(); }

std::size_t WatchAll::pending() const { return impl_->pending(); }

const std::string& WatchAll::chunks(std::int64_t uid) const {
  return impl_->chunks(uid);
}

}  // namespace jobgateway
