#include "many_rules.h"

#include <algorithm>

namespace jobclient {

using jobgateway::v1::JobEvent;
using jobgateway::v1::WatchJobRequest;
using jobgateway::v1::WatchJobsRequest;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

ManyRules::ManyRules(const std::vector<WatchJobRequest>& requests)
    : silence_(Silence(requests.empty() ? WatchJobRequest() : requests[0])) {
  for (const WatchJobRequest& request : requests) {
    Job job{request, Result(request.content_format())};
    // A stream takes its interval from the request that comes first.
    job.request.clear_heartbeat_interval();
    if (requests[0].has_heartbeat_interval()) {
      *job.request.mutable_heartbeat_interval() =
          requests[0].heartbeat_interval();
    }
    jobs_.emplace(request.uid(), std::move(job));
  }
}

const std::string& ManyRules::chunks(std::int64_t uid) const {
  static const std::string none;
  if (ended_ && ended_->first == uid) return ended_->second.chunks();
  const auto job = jobs_.find(uid);
  return job == jobs_.end() ? none : job->second.result.chunks();
}

void ManyRules::Opened() {
  stream_.Opened();
  sent_ = 0;
  unsent_ = {};
  for (auto& [uid, job] : jobs_) {
    job.sent = false;
    unsent_.emplace(job.due, uid);
  }
}

std::optional<WatchJobsRequest> ManyRules::NextRequest() {
  while (next_due() <= steady_clock::now()) {
    const auto found = jobs_.find(unsent_.top().second);
    unsent_.pop();
    if (found == jobs_.end()) continue;
    Job& job = found->second;
    job.sent = true;
    job.sent_at = steady_clock::now();
    ++sent_;
    WatchJobsRequest request;
    *request.mutable_watch() = job.request;
    return request;
  }
  return std::nullopt;
}

steady_clock::time_point ManyRules::next_due() const {
  return unsent_.empty() ? Time::max() : unsent_.top().first;
}

ManyRules::Outcome ManyRules::Take(JobEvent* event) {
  ended_.reset();
  Note(*event);
  const auto found = jobs_.find(event->uid());
  if (found == jobs_.end()) {
    const bool about_stream = event->uid() == 0 && !event->has_failure();
    return about_stream ? Outcome::kShow : Outcome::kIgnore;
  }
  if (event->has_failure()) return Fail(found, FailureOf(event->failure()));
  Job& job = found->second;
  if (!event->resume_token().empty()) {
    job.request.set_resume_token(event->resume_token());
  }
  if (ProvesToken(*event)) job.token_unproven = false;
  job.backoff.Worked(job.sent_at);
  const bool intact = job.result.Take(*event);
  if (event->job().done()) End(found);
  if (!intact) {
    const grpc::Status damaged = DamagedResult();
    event->mutable_failure()->set_code(damaged.error_code());
    event->mutable_failure()->set_message(damaged.error_message());
  }
  return Outcome::kShow;
}

// Notes what an event says about the stream.
void ManyRules::Note(const JobEvent& event) {
  const bool synced =
      event.has_synced() && event.synced().watch_requests() >= sent_;
  stream_.Heard(synced || ProvesToken(event), !event.resume_token().empty());
  if (!synced) return;
  for (auto& [uid, job] : jobs_) {
    if (job.sent) job.token_unproven = false;
  }
}

ManyRules::Outcome ManyRules::Fail(Jobs::iterator found,
                                   const Failure& failure) {
  // It is about a repeated request, and ends no watch.
  if (failure.reason == "ALREADY_WATCHED") return Outcome::kIgnore;
  auto& [uid, job] = *found;
  if (failure.code == grpc::StatusCode::UNAUTHENTICATED &&
      !job.token_unproven) {
    return Outcome::kLogIn;
  }
  if (failure.code == grpc::StatusCode::UNAVAILABLE ||
      failure.is_load_limit()) {
    job.sent = false;
    job.due = steady_clock::now() + job.backoff.Next(failure);
    unsent_.emplace(job.due, uid);
    return Outcome::kAgain;
  }
  End(found);
  return Outcome::kShow;
}

void ManyRules::End(Jobs::iterator job) {
  ended_.emplace(job->first, std::move(job->second.result));
  jobs_.erase(job);
}

Resumption ManyRules::LogIn(const Failure& failure) {
  return Prepare(stream_.LogIn(failure));
}

std::optional<Resumption> ManyRules::Resume(const Failure& failure) {
  // The cause of a defect may be one event, which would come again.
  const std::optional<Resumption> next = failure.reason == "GATEWAY_DEFECT"
                                             ? stream_.ResumeOnce(failure)
                                             : stream_.Resume(failure);
  if (!next) return std::nullopt;
  return Prepare(*next);
}

// Prepares the jobs for the next stream, and returns it with a wait until one
// of them is due: without a request, a stream has no heartbeats.
Resumption ManyRules::Prepare(Resumption next) {
  Time first = Time::max();
  for (auto& [uid, job] : jobs_) {
    if (next.fresh_token) job.token_unproven = true;
    first = std::min(first, job.due);
  }
  next.wait = std::max<nanoseconds>(next.wait, first - steady_clock::now());
  return next;
}

}  // namespace jobclient
