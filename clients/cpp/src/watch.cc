#include <jobgateway/watch.h>

#include <chrono>
#include <optional>
#include <utility>

#include "watch_impl.h"

namespace jobgateway {

using internal::kEndLimit;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;
using v1::JobEvent;
using v1::RunJobRequest;
using v1::WatchJobRequest;

class Watch::Impl::Stream
    : public internal::EventStream<grpc::ClientAsyncReader<JobEvent>> {
 public:
  // `run`: sent instead of `request` until the job is known.
  Stream(internal::Attempts* attempts, const std::optional<RunJobRequest>& run,
         const WatchJobRequest& request, nanoseconds silence)
      : EventStream(attempts, request.uid()) {
    const bool send = run && request.uid() == 0;
    Start(send ? stub().PrepareAsyncRunJob(context(), *run, queue())
               : stub().PrepareAsyncWatchJob(context(), request, queue()),
          attempts->Cap(silence));
  }
};

Watch::Impl::Impl(internal::Attempts attempts, std::optional<RunJobRequest> run,
                  WatchJobRequest request)
    : attempts_(std::move(attempts)),
      run_(std::move(run)),
      request_(std::move(request)),
      silence_(internal::Silence(request_)),
      result_(request_.content_format()) {}

Watch::Impl::~Impl() = default;

bool Watch::Impl::Next(JobEvent* event) {
  return attempts_.Guard(&stream_, [&] { return Advance(event); });
}

bool Watch::Impl::Advance(JobEvent* event) {
  while (!ended_) {
    if (stream_ == nullptr) {
      attempts_.Check();
      rules_.Opened();
      stream_ = std::make_unique<Stream>(&attempts_, run_, request_, silence_);
    }
    if (stream_->Read(event, done_ ? *done_ - steady_clock::now()
                                   : attempts_.Cap(silence_))) {
      if (done_) continue;  // nothing follows the end of a job
      Take(*event);
      return true;
    }
    const internal::EndedCall last = stream_->Finish();
    stream_.reset();
    if (done_) {  // after the end, the status does not matter
      ended_ = true;
      if (last.replayed && attempts_.options().on_replayed) {
        attempts_.options().on_replayed();
      }
    } else {
      attempts_.Resume(last, rules_.WantsToken(last.error), [&](bool renewed) {
        return Decide(last.error, renewed);
      });
    }
  }
  return false;
}

void Watch::Impl::Take(const JobEvent& event) {
  const std::string& token = event.resume_token();
  rules_.Heard(internal::ProvesToken(event),
               !token.empty() && token != request_.resume_token());
  if (event.uid() != 0) request_.set_uid(event.uid());
  if (!token.empty()) request_.set_resume_token(token);
  if (event.has_job()) job_ = event.job();
  if (event.job().done()) done_ = steady_clock::now() + kEndLimit;
  if (const auto damage = result_.Take(event)) throw *damage;
  if (event.has_job() && attempts_.options().on_progress) {
    attempts_.options().on_progress(event.job());
  }
}

std::optional<Retry> Watch::Impl::Decide(const Error& error, bool renewed) {
  // An error may name the job before an event does.
  if (run_ && request_.uid() == 0) request_.set_uid(error.uid());
  const std::optional<Retry> next = rules_.Resume(error, renewed);
  if (!run_ || request_.uid() != 0 || renewed) return next;
  if (!internal::MaySendAgain(error, run_->request())) return std::nullopt;
  return next ? next : rules_.Next(error);
}

Watch::Watch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&&) noexcept = default;
Watch::~Watch() = default;

bool Watch::Next(JobEvent* event) { return impl_->Next(event); }

void Watch::Close() { impl_->Close(); }

Finished Watch::Finish() {
  JobEvent event;
  while (Next(&event)) {
  }
  return {impl_->job(), ResultOf(impl_->job(), chunks())};
}

const std::string& Watch::chunks() const { return impl_->chunks(); }

}  // namespace jobgateway
